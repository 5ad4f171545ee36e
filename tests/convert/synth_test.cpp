// Synthetic models: valid, deterministic, alive through any depth, with routers that choose as they were asked to.
#include <doctest/doctest.h>
#include <r1/session.h>
#include <r1/trace.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <random>
#include <set>

#include "checkpoint_maker.h"
#include "convert/synth.h"
#include "quant/decode.h"
#include "quant/encode.h"

using namespace r1;

namespace {

const std::string nano_config = R1_SOURCE_DIR "/examples/r1-nano/config.json";

template <class T>
T expect(Result<T> result) {
  REQUIRE_MESSAGE(result.ok(), (result.ok() ? "" : result.error().text()));
  return std::move(result).value();
}

// r1-nano's config with other values.
std::string nano_with(const nlohmann::json& changes) {
  auto json = nlohmann::json::parse(read_file(nano_config));
  json.update(changes);
  return json.dump();
}

struct Made {
  convert::SynthModel model;
  convert::ConversionPlan plan;
};

Made make(const std::string& config, const convert::SynthShape& shape, const char* recipe, const std::string& out,
          convert::SynthRouter router = convert::SynthRouter::uniform, std::uint64_t seed = 0, int n_threads = 2) {
  Made made{expect(convert::shape_synthetic(config, "config.json", shape)), {}};
  made.model.router = router;
  made.model.seed = seed;
  made.plan = expect(
      convert::plan_synthetic(made.model, convert::hand_made_mix(made.model.config, *quant::find_recipe(recipe))));
  convert::SynthOptions options;
  options.n_threads = n_threads;
  (void)expect(convert::write_synthetic(made.model, made.plan, out, options));
  return made;
}

std::shared_ptr<const Model> open(const std::string& path) {
  ModelOptions options;
  options.path = path;
  options.verify = true;
  return expect(Model::open(options));
}

std::vector<Token> random_tokens(std::size_t n, std::uint32_t vocab_size) {
  std::mt19937 engine(3);
  std::vector<Token> tokens(n);
  for (Token& token : tokens) token = static_cast<Token>(engine() % vocab_size);
  return tokens;
}

Trace trace_random(const std::shared_ptr<const Model>& model, std::size_t n) {
  return expect(trace(model, random_tokens(n, model->info().vocab_size)));
}

double rms(std::span<const float> x) {
  double sum = 0;
  for (const float v : x) sum += static_cast<double>(v) * v;
  return std::sqrt(sum / static_cast<double>(x.size()));
}

std::string error_of(const std::string& config, const convert::SynthShape& shape) {
  const auto model = convert::shape_synthetic(config, "config.json", shape);
  REQUIRE_FALSE(model.ok());
  return model.error().text();
}

void check_one_line(const Run& run, int exit_code, const char* part) {
  CAPTURE(run.err);
  CHECK(run.exit_code == exit_code);
  CHECK(std::count(run.err.begin(), run.err.end(), '\n') == 1);
  CHECK(run.err.find(part) != std::string::npos);
}

}  // namespace

TEST_CASE("synthetic weights: every format decodes to the size asked for, padding is zero") {
  for (const quant::Format format : quant::all_formats) {
    CAPTURE(quant::info(format).name);
    const std::uint32_t rows = 41, k = 1024;
    convert::RandomTensor tensor{format, *quant::blob_layout(format, rows, k), 0.03f, 7};
    const quant::BlobLayout& layout = tensor.layout;
    std::vector<std::byte> blob(layout.bytes);
    const auto table = convert::random_s4_table(format);
    const bool packed = quant::info(format).is_packed();
    if (packed) std::copy_n(std::as_bytes(std::span(table)).data(), sizeof table, blob.data());
    for (std::uint32_t panel = 0; panel < layout.n_panels; ++panel) {
      const std::size_t at = layout.panels_offset_bytes + panel * layout.panel_bytes;
      float row_scale[quant::panel_rows] = {};
      convert::draw_panel(tensor, panel, std::span(blob).subspan(at, std::min(layout.panel_bytes, layout.bytes - at)),
                          row_scale);
      if (packed)
        std::copy_n(std::as_bytes(std::span(row_scale)).data(), sizeof row_scale,
                    blob.data() + layout.row_scale_offset_bytes + panel * sizeof row_scale);
    }
    std::vector<float> decoded(std::size_t{rows} * k);
    quant::decode_rows(format, layout, blob, 0, rows, decoded.data());
    CHECK(rms(decoded) == doctest::Approx(0.03).epsilon(0.05));
    const double mean = std::accumulate(decoded.begin(), decoded.end(), 0.0) / static_cast<double>(decoded.size());
    CHECK(std::abs(mean) < 0.001);
    if (!packed) continue;
    // Panel 2 has nine rows. Where the encoder, on ever new weights for them, leaves a nibble zero, it is of a padded
    // row: it must be zero here too.
    quant::TensorEncoding encoding;
    encoding.format = format;
    encoding.layout = layout;
    encoding.s4_table = table;
    std::vector<float> full(std::size_t{9} * k);
    std::vector<std::byte> panel(layout.panel_bytes), mask(layout.panel_bytes);
    float row_scale[quant::panel_rows] = {};
    std::mt19937 engine(1);
    for (int pass = 0; pass < 24; ++pass) {
      for (float& x : full) x = static_cast<float>(engine()) * 0x1p-31f - 1;
      (void)quant::encode_panel(encoding, 2, full.data(), {}, panel.data(), row_scale);
      for (std::size_t i = 0; i < mask.size(); ++i) mask[i] |= panel[i];
    }
    const std::byte* drawn = blob.data() + layout.panels_offset_bytes + 2 * layout.panel_bytes;
    std::size_t n_outside = 0;
    for (std::size_t i = 0; i < mask.size(); ++i) {
      for (const std::byte nibble : {std::byte{0x0f}, std::byte{0xf0}})
        n_outside += (mask[i] & nibble) == std::byte{0} && (drawn[i] & nibble) != std::byte{0};
    }
    CHECK(n_outside == 0);
    for (std::uint32_t row = 9; row < quant::panel_rows; ++row) {
      float scale = 1;
      std::memcpy(&scale, blob.data() + layout.row_scale_offset_bytes + (32 + row) * sizeof scale, sizeof scale);
      CHECK(scale == 0);
    }
  }
}

TEST_CASE("synthetic models: any architecture opens, verifies, and decodes on and on") {
  const ScratchDirectory scratch;
  const auto decode = [&](const std::string& path) {
    const auto model = open(path);
    CHECK_FALSE(model->tokenizer().ok());
    SessionOptions options;
    options.n_threads = 1;
    Session session = expect(Session::create(model, options));
    std::vector<Token> next = {1};
    for (int i = 0; i < 200; ++i) {
      const auto done = session.append(next);
      REQUIRE_MESSAGE(done.ok(), (done.ok() ? "" : done.error().text()));
      const auto logits = session.logits();
      REQUIRE(std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); }));
      next = {static_cast<Token>(std::max_element(logits.begin(), logits.end()) - logits.begin())};
    }
    CHECK(rms(session.logits()) > 0.5);
    CHECK(rms(session.logits()) < 20);
  };
  for (const char* recipe : {"r2.2", "r2.7", "r3.5", "r4.5", "w8", "exact"}) {
    CAPTURE(recipe);
    const Made made = make(read_file(nano_config), {3, 1, 16}, recipe, scratch / recipe);
    CHECK(made.model.config.num_hidden_layers == 4);
    CHECK(made.model.config.first_k_dense_replace == 1);
    CHECK(made.model.config.n_routed_experts == 16);
    CHECK(made.model.config.num_nextn_predict_layers == 0);
    decode(scratch / recipe);
  }
  for (const char* name : {"qwen2", "qwen3", "llama"}) {
    CAPTURE(name);
    const auto config = read_file(std::string(R1_FIXTURES "/models/") + name + "/config.json");
    (void)make(config, {1, {}, {}}, "r3.5", scratch / name);
    decode(scratch / name);
    CHECK(open(scratch / name)->info().n_layers == 1);
  }
  const auto written = nlohmann::json::parse(read_file(scratch / "r2.7/config.json"));
  CHECK(written["quantization_config"]["source"] == "synthetic");
  CHECK(written["quantization_config"]["seed"] == 0);
}

TEST_CASE("synthetic models: states keep their size and stay unlike each other through sixty layers") {
  const ScratchDirectory scratch;
  const std::string config = nano_with({{"num_hidden_layers", 61}});
  (void)make(config, {60, 1, {}}, "r2.2", scratch / "deep");
  const auto model = open(scratch / "deep");
  constexpr std::size_t n = 96;
  const Trace t = trace_random(model, n);
  const std::size_t state = t.hidden_size, layer = n * state;
  CHECK(std::all_of(t.logits.begin(), t.logits.end(), [](float x) { return std::isfinite(x); }));
  for (std::uint32_t l = 0; l <= t.n_layers; l += 20) {
    CAPTURE(l);
    const std::span<const float> x(t.hidden.data() + l * layer, layer);
    CHECK(rms(x) > 0.5);
    CHECK(rms(x) < 20);
    std::vector<float> common(state);
    for (std::size_t i = 0; i < layer; ++i) common[i % state] += x[i] / n;
    CHECK(rms(common) < 0.3 * rms(x));
  }
}

TEST_CASE("synthetic routers: uniform is even, zipf is skewed and still varies with the token") {
  const ScratchDirectory scratch;
  const std::string config =
      nano_with({{"n_routed_experts", 64}, {"num_experts_per_tok", 4}, {"n_group", 8}, {"topk_group", 4}});
  constexpr std::size_t n = 600;
  // Counts of experts in each MoE layer, most popular first.
  const auto counts = [&](convert::SynthRouter router, const char* name, auto&& check) {
    (void)make(config, {3, 1, 64}, "r2.7", scratch / name, router, 5);
    const Trace t = trace_random(open(scratch / name), n);
    std::vector<std::vector<std::size_t>> by_layer;
    for (std::uint32_t layer = 0; layer < t.n_moe_layers; ++layer) {
      std::vector<std::size_t> count(64);
      const std::int32_t* ids = t.router_ids.data() + layer * n * 4;
      for (std::size_t i = 0; i < n * 4; ++i) ++count[static_cast<std::size_t>(ids[i])];
      by_layer.push_back(count);
      std::sort(count.rbegin(), count.rend());
      CAPTURE(layer);
      check(count, ids);
    }
    return by_layer;
  };
  (void)counts(convert::SynthRouter::uniform, "uniform", [](const std::vector<std::size_t>& count, const auto*) {
    CHECK(count.front() < 75);  // mean 37.5
    CHECK(count.back() > 12);
  });
  const auto by_layer =
      counts(convert::SynthRouter::zipf, "zipf", [](const std::vector<std::size_t>& count, const std::int32_t* ids) {
        // Slope of log count over log rank, between ranks 2 and 32: flatter or steeper is not Zipf of about 0.8.
        double sx = 0, sy = 0, sxx = 0, sxy = 0;
        for (int rank = 2; rank <= 32; ++rank) {
          const double x = std::log(rank), y = std::log(static_cast<double>(count[static_cast<std::size_t>(rank - 1)]));
          sx += x, sy += y, sxx += x * x, sxy += x * y;
        }
        const double slope = (31 * sxy - sx * sy) / (31 * sxx - sx * sx);
        CHECK(slope < -0.6);
        CHECK(slope > -1.1);
        CHECK(count.back() > 0);
        std::set<std::vector<std::int32_t>> choices;
        for (std::size_t token = 0; token < n; ++token) choices.insert({ids + token * 4, ids + token * 4 + 4});
        CHECK(choices.size() > n / 2);
      });
  // Each layer has its own favourites.
  const auto favourite = [&](std::size_t l) {
    return std::max_element(by_layer[l].begin(), by_layer[l].end()) - by_layer[l].begin();
  };
  CHECK((favourite(0) != favourite(1) || favourite(1) != favourite(2)));
}

TEST_CASE("synthetic models: bytes depend on the seed, not on threads, and finished shards are kept") {
  const ScratchDirectory scratch;
  const std::string config = read_file(nano_config);
  const auto router = convert::SynthRouter::zipf;
  (void)make(config, {2, 1, 8}, "r2.7", scratch / "a", router, 1, 1);
  (void)make(config, {2, 1, 8}, "r2.7", scratch / "b", router, 1, 4);
  (void)make(config, {2, 1, 8}, "r2.7", scratch / "c", router, 2, 4);
  const auto a = read_directory(scratch / "a");
  CHECK(a == read_directory(scratch / "b"));
  CHECK(a.at("common.safetensors") != read_directory(scratch / "c").at("common.safetensors"));
  std::filesystem::remove(scratch / "a/experts-002.safetensors");
  const auto before = std::filesystem::last_write_time(scratch / "a/common.safetensors");
  (void)make(config, {2, 1, 8}, "r2.7", scratch / "a", router, 1, 2);
  CHECK(read_directory(scratch / "a") == a);
  CHECK(std::filesystem::last_write_time(scratch / "a/common.safetensors") == before);
  // A seed of its own replaces it all.
  (void)make(config, {2, 1, 8}, "r2.7", scratch / "a", router, 2, 2);
  CHECK(read_directory(scratch / "a") == read_directory(scratch / "c"));
}

TEST_CASE("synthetic shapes: counts that cannot be are refused, those that follow are fitted") {
  const std::string config = read_file(nano_config);  // 5 layers, 1 dense; 4 experts of a token
  CHECK(error_of(config, {0, {}, {}}).find("layers 0") != std::string::npos);
  CHECK(error_of(config, {-3, {}, {}}).find("layers -3") != std::string::npos);
  CHECK(error_of(config, {5, {}, {}}).find("more than the 4 that the config has behind 1 dense") != std::string::npos);
  CHECK(error_of(config, {INT64_MAX, 0, {}}).find("more than the 5") != std::string::npos);
  CHECK(error_of(config, {1, -1, {}}).find("dense layers -1") != std::string::npos);
  CHECK(error_of(config, {1, INT64_MAX, {}}).find("layers 1: more than the 0") != std::string::npos);
  CHECK(error_of(config, {1, {}, 3}).find("experts 3: fewer than the 4") != std::string::npos);
  CHECK(error_of(config, {1, {}, -1}).find("experts -1") != std::string::npos);
  CHECK(error_of(config, {1, {}, 1'000'000'000}).find("n_routed_experts") != std::string::npos);
  CHECK(error_of(config, {1, {}, INT64_MAX}).find("n_routed_experts") != std::string::npos);
  CHECK(error_of(nano_with({{"hidden_size", 1 << 30}}), {1, {}, {}}).find("hidden_size") != std::string::npos);
  CHECK(error_of("{", {1, {}, {}}).find("config.json") != std::string::npos);
  const std::string llama = read_file(R1_FIXTURES "/models/llama/config.json");
  CHECK(error_of(llama, {1, {}, 8}).find("no experts") != std::string::npos);
  CHECK(error_of(llama, {1, 1, {}}).find("no experts") != std::string::npos);

  const auto r1 = read_file(R1_FIXTURES "/tokenizers/DeepSeek-R1/config.json");
  for (const std::int64_t n : {8, 9, 12, 16, 17, 31, 64, 100, 256, 384}) {
    CAPTURE(n);
    const auto model = expect(convert::shape_synthetic(r1, "config.json", {3, 1, n}));
    CHECK(model.config.n_routed_experts == n);
    CHECK(model.config.num_experts_per_tok == 8);
    if (n >= 64) CHECK(model.config.n_group == (n % 8 == 0 ? 8u : 5u));
    if (n == 64) CHECK(model.config.topk_group == 4);
  }
}

TEST_CASE("r1-quantize synth: wrong usage, a full disk and others' directories are told in one line") {
  const ScratchDirectory scratch;
  const std::string out = scratch / "out";
  const std::vector<std::string> base = {"synth", "--config", nano_config, "--recipe", "r2.7", out};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), base.begin(), base.end());
    return run_quantize(more);
  };
  check_one_line(with({}), 2, "--layers");
  check_one_line(with({"--layers", "0"}), 2, "--layers");
  check_one_line(with({"--layers", "-1"}), 2, "--layers");
  check_one_line(with({"--layers", "many"}), 2, "--layers");
  check_one_line(with({"--layers", "1", "--experts", "1000000000"}), 2, "--experts");
  check_one_line(with({"--layers", "1", "--dense", "-1"}), 2, "--dense");
  check_one_line(with({"--layers", "1", "--router", "fair"}), 2, "--router");
  check_one_line(with({"--layers", "9"}), 1, "layers 9");
  check_one_line(with({"--layers", "1", "--experts", "2"}), 1, "experts 2");
  check_one_line(run_quantize({"synth", "--config", "/nonexistent", "--layers", "1", out}), 1, "/nonexistent");
  check_one_line(run_quantize({"synth", "--config", nano_config, "--layers", "1", "--recipe", "r9", out}), 2, "r9");
  CHECK_FALSE(std::filesystem::exists(out));

  // Within every bound of config.json, and petabytes in all.
  write_file(scratch / "huge.json", nano_with({{"hidden_size", 1 << 20},
                                               {"intermediate_size", 1 << 20},
                                               {"moe_intermediate_size", 1 << 20},
                                               {"n_routed_experts", 4096},
                                               {"n_shared_experts", 1},
                                               {"num_hidden_layers", 4}}));
  const Run full = run_quantize({"synth", "--config", scratch / "huge.json", "--layers", "3", "--recipe", "w8", out});
  check_one_line(full, 1, "GB free");
  CHECK(full.err.find("needs ") != std::string::npos);

  CHECK(with({"--layers", "1", "--seed", "4", "--router", "zipf", "--threads", "2"}).exit_code == 0);
  CHECK(run_quantize({"verify", out}).exit_code == 0);
  check_one_line(
      run_quantize({"synth", "--config", out, "--layers", "1", "--dense", "0", "--recipe", "w8", nano_config}), 1,
      "config.json");
  // A conversion is never replaced by random weights.
  const std::string nano = R1_SOURCE_DIR "/examples/r1-nano";
  REQUIRE(run_quantize({nano, scratch / "real", "--recipe", "exact"}).exit_code == 0);
  const auto before = read_directory(scratch / "real");
  check_one_line(
      run_quantize({"synth", "--config", nano_config, "--layers", "1", "--recipe", "r2.2", scratch / "real"}), 1,
      "not synthetic");
  check_one_line(run_quantize({"synth", "--config", nano, "--layers", "1", "--recipe", "r2.2", nano}), 1, "r1-nano");
  CHECK(read_directory(scratch / "real") == before);
}
