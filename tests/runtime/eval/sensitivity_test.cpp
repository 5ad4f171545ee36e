// Sensitivities against models that were converted with one part lowered.
#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "convert/pipeline.h"
#include "quant/decode.h"
#include "runtime/eval/imatrix_collector.h"
#include "runtime/eval/layer_states.h"
#include "runtime/eval/nudged_model.h"
#include "runtime/eval/score.h"
#include "runtime/eval/sensitivity_probe.h"
#include "runtime/io/file.h"
#include "runtime/model/model_impl.h"
#include "tests/runtime/engine/model_dirs.h"

using namespace r1;
using quant::Format;
using quant::TensorClass;

namespace {

constexpr std::uint32_t window_tokens = 24;

template <class T>
T expect(Result<T> result) {
  REQUIRE_MESSAGE(result.ok(), (result.ok() ? "" : result.error().text()));
  return std::move(result).value();
}

eval::Windows some_windows(std::uint32_t n) {
  std::vector<Token> tokens;
  for (std::uint32_t i = 0; i < n * window_tokens; ++i) tokens.push_back(static_cast<Token>((i * 37 + i * i) % 400));
  return expect(eval::make_windows(tokens, false, {.window_tokens = window_tokens}, "text"));
}

std::string fresh_state(const char* name) {
  const std::string path = test::temporary_directory() + "/" + name;
  eval::remove_probe_state(path);
  return path;
}

rt::Sensitivity probe(const std::shared_ptr<const Model>& model, const eval::Windows& windows,
                      eval::ProbeOptions options) {
  options.state_path = fresh_state("probe.state");
  return expect(eval::probe_sensitivity(model, windows, options));
}

std::string text_of(const rt::Sensitivity& sensitivity) {
  const std::string path = test::temporary_directory() + "/text.json";
  REQUIRE(sensitivity.save(path).ok());
  return expect(rt::read_text_file(path, 1 << 20));
}

// The model whose mix is exact but for the item.
std::shared_ptr<const Model> conversion(const std::string& name, const rt::SensitivityItem& item, Format format,
                                        const rt::Imatrix* imatrix = nullptr) {
  const auto checkpoint = expect(convert::Checkpoint::open(std::string(R1_FIXTURES) + "/models/" + name));
  convert::Mix mix = convert::hand_made_mix(checkpoint.config(), *quant::find_recipe("exact"));
  mix.name = "lowered";
  for (int layer = item.first_layer; layer <= item.last_layer; ++layer) {
    const auto found = mix.formats.find({item.tensor_class, layer});
    if (found != mix.formats.end()) found->second = format;
  }
  const std::string directory = test::temporary_directory() + "/lowered";
  std::filesystem::remove_all(directory);
  convert::ConvertOptions options;
  options.n_threads = 1;
  options.imatrix = imatrix;
  (void)expect(
      convert::convert(checkpoint, expect(convert::plan_conversion(checkpoint, mix, imatrix)), directory, options));
  ModelOptions model_options;
  model_options.path = directory;
  return expect(Model::open(model_options));
}

double kld_of_conversion(const std::string& name, const rt::SensitivityItem& item, Format format,
                         const rt::Imatrix* imatrix, const eval::Windows& windows) {
  eval::RunOptions run;
  run.n_threads = 1;
  const auto rows = expect(eval::ModelRows::create(conversion(name, item, format, imatrix), windows, run));
  const auto base = expect(eval::ModelRows::create(test::open_model(name), windows, run));
  eval::ScoreOptions score;
  score.run.n_threads = 1;
  return eval::kld_report(expect(eval::score_windows(*rows, base.get(), windows, score))).mean.value;
}

// An imatrix that prefers even columns.
rt::Imatrix striped_imatrix(const Model& model) {
  rt::Imatrix imatrix = rt::Imatrix::zeros(model.impl().file->config(), expect(eval::identity_of(model)));
  for (rt::ImatrixInput& input : imatrix.inputs) {
    for (std::uint32_t i = 0; i < input.n; ++i) {
      input.tokens[i] = 1000;
      for (std::uint32_t c = 0; c < input.k; ++c) input.squares[std::size_t{i} * input.k + c] = c % 2 == 0 ? 9e3 : 1e3;
    }
  }
  return imatrix;
}

}  // namespace

TEST_CASE("a measurement is what a conversion with that part lowered diverges") {
  const eval::Windows windows = some_windows(2);
  for (const char* name : {"deepseek-v3-bf16", "qwen2"}) {
    CAPTURE(name);
    const auto model = test::open_model(name);
    const rt::Imatrix imatrix = striped_imatrix(*model);
    eval::CollectOptions with_moments;
    with_moments.moments = {1u << 16};
    const rt::Imatrix moments = expect(eval::collect_imatrix(model, some_windows(4), with_moments));
    REQUIRE(moments.has_moments());
    for (const rt::Imatrix* used : {static_cast<const rt::Imatrix*>(nullptr), &imatrix, &moments}) {
      eval::ProbeOptions options;
      options.n_threads = 2;
      options.formats = {Format::t2, Format::t5};
      options.layers_per_group = 2;
      options.imatrix = used;
      const rt::Sensitivity sensitivity = probe(model, windows, options);
      CHECK(sensitivity.n_scored_tokens == windows.n_scored_tokens());
      std::size_t n_checked = 0;
      for (const rt::SensitivityItem& item : sensitivity.items) {
        CAPTURE(quant::class_name(item.tensor_class));
        CAPTURE(item.first_layer);
        REQUIRE(item.measured.size() == 2);
        CHECK(item.measured[0].format == Format::t2);
        CHECK(item.measured[0].error > 2 * item.measured[1].error);
        if (n_checked++ % 3 != 0) continue;
        // The base's rows were stored with 16 bits a logit.
        CHECK(item.measured[0].kld ==
              doctest::Approx(kld_of_conversion(name, item, Format::t2, used, windows)).epsilon(1e-3).scale(1e-3));
      }
    }
  }
}

TEST_CASE("a run that starts behind the layers it shares with another model has the bits of a whole one") {
  std::vector<Token> tokens;
  for (std::uint32_t i = 0; i < 1250; ++i) tokens.push_back(static_cast<Token>((i * 37 + i * i) % 400));
  // Two windows of two batches, and one of one.
  const eval::Windows windows = expect(eval::make_windows(tokens, false, {.window_tokens = 600}, "text"));
  const eval::RunOptions run{.n_threads = 2};
  const auto score = [&](eval::ModelRows& rows) {
    std::vector<double> logprobs;
    eval::ScoreOptions options;
    options.run = run;
    for (const auto& s : expect(eval::score_windows(rows, nullptr, windows, options))) logprobs.push_back(s.logprob);
    return logprobs;
  };
  for (const char* name : {"deepseek-v3-fp8", "qwen2"}) {
    CAPTURE(name);
    const auto base = test::open_model(name);
    const rt::ModelConfig& config = base->impl().file->config();
    const std::uint32_t n_layers = config.num_hidden_layers;
    std::vector<std::uint32_t> layers;
    for (std::uint32_t layer = 1; layer <= n_layers; ++layer) layers.push_back(layer);
    const std::uint64_t bytes = windows.tokens.size() * sizeof(float) * config.hidden_size;
    const auto kept = [&](std::uint64_t max_bytes, std::vector<double>* scores) {
      eval::LayerStates states(windows, config.hidden_size, layers, max_bytes);
      const auto rows = expect(eval::ModelRows::create(base, windows, run));
      rows->keep_states(states);
      *scores = score(*rows);
      return states;
    };
    std::vector<double> of_base;
    eval::LayerStates all = kept(n_layers * bytes, &of_base), some = kept(n_layers * bytes - 1, &of_base),
                      none = kept(bytes - 1, &of_base);
    CHECK(all.before(2, 0).layer == 2);
    CHECK(some.before(2, 0).layer == 1);
    CHECK(some.before(3, 1).layer == 3);
    CHECK(none.empty());
    const int last = static_cast<int>(n_layers) - 1;
    for (const rt::SensitivityItem& item : {rt::SensitivityItem{TensorClass::o, 1, 1, {}, {}},
                                            {TensorClass::o, last, last, {}, {}},
                                            {TensorClass::head, -1, -1, {}, {}}}) {
      CAPTURE(item.first_layer);
      const auto lowered = conversion(name, item, Format::t2);
      const auto whole = score(*expect(eval::ModelRows::create(lowered, windows, run)));
      CHECK(whole != of_base);
      for (eval::LayerStates* states : {&all, &some, &none}) {
        const auto rows = expect(eval::ModelRows::create(lowered, windows, run));
        rows->start_at(item.first_layer < 0 ? n_layers : static_cast<std::uint32_t>(item.first_layer), *states);
        CHECK(score(*rows) == whole);
      }
    }
    // Layers before it do not run.
    const auto rows =
        expect(eval::ModelRows::create(conversion(name, {TensorClass::o, 0, last, {}, {}}, Format::t2), windows, run));
    rows->start_at(n_layers, all);
    CHECK(score(*rows) == of_base);
  }
}

TEST_CASE("measurements are the same for any number of threads and interruptions") {
  const auto model = test::open_model("deepseek-v3-bf16");
  const eval::Windows windows = some_windows(2);
  eval::ProbeOptions options;
  options.layers_per_group = 100;
  options.n_threads = 1;
  const std::string whole = text_of(probe(model, windows, options));
  options.n_threads = 3;
  CHECK(text_of(probe(model, windows, options)) == whole);

  std::atomic<bool> stop = false;
  constexpr std::size_t n_floors = 5;  // embedding, head, all layers, the dense ones, those with experts
  options.state_path = fresh_state("stopped.state");
  options.stop = &stop;
  options.on_progress = [&](std::size_t n_done, std::size_t) { stop = n_done == n_floors + 3; };
  const auto stopped = eval::probe_sensitivity(model, windows, options);
  REQUIRE_FALSE(stopped.ok());
  CHECK(stopped.error().code == ErrorCode::cancelled);
  const rt::Sensitivity state = expect(rt::Sensitivity::load(options.state_path));
  CHECK(state.items[0].measured.size() == 2);
  CHECK(state.items[1].measured.size() == 1);
  stop = false;
  std::size_t first_shown = 0;
  options.on_progress = [&](std::size_t n_done, std::size_t) { first_shown = first_shown == 0 ? n_done : first_shown; };
  CHECK(text_of(expect(eval::probe_sensitivity(model, windows, options))) == whole);
  CHECK(first_shown == n_floors + 3);
  const auto other = eval::probe_sensitivity(model, some_windows(1), options);
  REQUIRE_FALSE(other.ok());
  CHECK(other.error().text().find("other work") != std::string::npos);
  eval::remove_probe_state(options.state_path);
  CHECK_FALSE(std::filesystem::exists(options.state_path + ".logits"));
}

TEST_CASE("a floor is measured for each group of layers, and only where values are rounded is it worth mention") {
  const eval::Windows windows = some_windows(2);
  for (const char* name : {"deepseek-v3-bf16", "qwen2"}) {
    CAPTURE(name);
    eval::ProbeOptions options;
    options.formats = {Format::t2};
    const rt::Sensitivity exact = probe(test::open_model(name), windows, options);
    const rt::Sensitivity rounded = probe(test::open_model(name, "r4.5"), windows, options);
    REQUIRE(exact.items.size() == rounded.items.size());
    for (std::size_t i = 0; i < exact.items.size(); ++i) {
      const rt::SensitivityItem &a = exact.items[i], &b = rounded.items[i];
      CAPTURE(quant::class_name(a.tensor_class));
      CAPTURE(a.first_layer);
      REQUIRE(a.floor.has_value());
      REQUIRE(b.floor.has_value());
      if (a.first_layer < 0) continue;  // behind the head nothing is rounded; a token meets but one row of embed
      CHECK(*a.floor < 0.01 * a.measured[0].kld);
      CHECK(*b.floor > 5 * *a.floor);
      for (const rt::SensitivityItem& other : rounded.items) {
        if (other.first_layer == b.first_layer) CHECK(*other.floor == *b.floor);
      }
    }
  }
}

TEST_CASE("a nudge moves every weight of the part by next to nothing, and no other") {
  const auto check = [](const std::shared_ptr<const Model>& model, TensorClass tensor_class, int layer) {
    const rt::ModelFile& file = *model->impl().file;
    const auto parts = eval::ItemParts::of(file, {tensor_class, layer, layer, {}, {}});
    REQUIRE_FALSE(parts.places.empty());
    const auto nudged = expect(eval::nudge(*model, parts));
    std::size_t n_moved = 0;
    for (const rt::BlobSpec& spec : rt::expected_blobs(file.config())) {
      const rt::BlobInfo *before = file.find(spec.name), *after = nudged->impl().file->find(spec.name);
      REQUIRE(before->parts.size() == after->parts.size());
      for (std::size_t p = 0; p < before->parts.size(); ++p) {
        const simd::PackedMatrix &a = before->parts[p], &b = after->parts[p];
        if (a.blob == b.blob) continue;
        ++n_moved;
        const std::size_t n = std::size_t{a.rows()} * a.k();
        std::vector<float> x(n), y(n);
        quant::decode_rows(a.format, a.layout, {a.blob, a.layout.bytes}, 0, a.rows(), x.data());
        quant::decode_rows(b.format, b.layout, {b.blob, b.layout.bytes}, 0, b.rows(), y.data());
        std::size_t n_up = 0, n_wrong = 0;
        for (std::size_t i = 0; i < n; ++i) {
          const double change = std::abs(y[i] - x[i]);
          n_up += y[i] > x[i] ? 1 : 0;
          n_wrong += change > std::abs(x[i]) / 120 || (change == 0) != (x[i] == 0) ? 1 : 0;
        }
        CHECK(n_wrong == 0);
        CHECK(n_up > n / 4);
        CHECK(n_up < n / 4 * 3);
      }
    }
    CHECK(n_moved == parts.places.size());
  };
  check(test::open_model("deepseek-v3-bf16"), TensorClass::routed_down, 1);  // bf16
  check(test::open_model("deepseek-v3-bf16", "r4.5"), TensorClass::routed_down, 1);
  check(test::open_model("deepseek-v3-bf16", "w8"), TensorClass::o, 0);
  check(conversion("qwen2", {TensorClass::o, 0, 0, {}, {}}, Format::f32), TensorClass::o, 0);
}

TEST_CASE("a part is a class in a group of the layers that have it") {
  const auto model = test::open_model("deepseek-v3-bf16");
  const rt::ModelConfig& config = model->impl().file->config();
  const auto all = rt::sensitivity_items(config, 1);
  const auto grouped = rt::sensitivity_items(config, 100);
  CHECK(grouped.size() < all.size());
  for (const rt::SensitivityItem& item : all) {
    CHECK(item.first_layer == item.last_layer);
    CHECK(item.last_layer < static_cast<int>(config.num_hidden_layers));  // no MTP layer
    CHECK(item.tensor_class != TensorClass::norm);
    CHECK(item.tensor_class != TensorClass::router);
  }
  for (const rt::SensitivityItem& item : grouped) {
    if (item.tensor_class == TensorClass::routed_down) {
      CHECK(item.first_layer == static_cast<int>(config.first_k_dense_replace));
      CHECK(item.last_layer == static_cast<int>(config.num_hidden_layers) - 1);
    }
  }
}

TEST_CASE("texts and importance matrices that do not belong are refused") {
  const auto model = test::open_model("deepseek-v3-bf16");
  const eval::Windows windows = some_windows(1);
  rt::Imatrix imatrix = striped_imatrix(*model);
  imatrix.identity = "other";
  eval::ProbeOptions options;
  options.state_path = fresh_state("bad.state");
  options.imatrix = &imatrix;
  options.imatrix_path = "i.imatrix";
  const auto result = eval::probe_sensitivity(model, windows, options);
  REQUIRE_FALSE(result.ok());
  CHECK(result.error().text().find("i.imatrix") != std::string::npos);
  options.imatrix = nullptr;
  eval::Windows wild = windows;
  wild.tokens[3] = 1 << 30;
  CHECK_FALSE(eval::probe_sensitivity(model, wild, options).ok());
}
