// Importance matrices and second moments against sums made from a trace and decoded weights in double precision.
#include <doctest/doctest.h>
#include <r1/trace.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "quant/decode.h"
#include "runtime/eval/imatrix_collector.h"
#include "runtime/model/model_impl.h"
#include "tests/runtime/engine/model_dirs.h"

using namespace r1;

namespace {

using Vector = std::vector<double>;
constexpr std::uint32_t window_tokens = 24;
constexpr rt::MomentsWanted all_moments = {1u << 16};

std::vector<Token> varied_tokens(std::uint32_t n) {
  std::vector<Token> tokens;
  for (std::uint32_t i = 0; i < n; ++i) tokens.push_back(static_cast<Token>((i * 37 + i * i) % 400));
  return tokens;
}

eval::Windows windows_of(const std::vector<Token>& tokens) {
  auto windows = eval::make_windows(tokens, false, {.window_tokens = window_tokens}, "text");
  REQUIRE(windows.ok());
  return *windows;
}

eval::CollectOptions with_all_moments() {
  eval::CollectOptions options;
  options.moments = all_moments;
  return options;
}

rt::Imatrix collect(const std::shared_ptr<const Model>& model, const eval::Windows& windows,
                    eval::CollectOptions options = with_all_moments()) {
  auto imatrix = eval::collect_imatrix(model, windows, options);
  REQUIRE_MESSAGE(imatrix.ok(), (imatrix.ok() ? "" : imatrix.error().text()));
  return *imatrix;
}

std::string fingerprint_with(const std::shared_ptr<const Model>& model, const eval::Windows& windows, int n_threads) {
  eval::CollectOptions options;
  options.n_threads = n_threads;
  options.moments = all_moments;
  return collect(model, windows, options).fingerprint();
}

Vector product(const rt::Matrix& w, const Vector& x) {
  std::vector<float> weights(std::size_t{w.rows()} * w.k());
  quant::decode_rows(w.format, w.layout, {w.blob, w.layout.bytes}, 0, w.rows(), weights.data());
  Vector y(w.rows());
  for (std::size_t r = 0; r < y.size(); ++r) {
    for (std::size_t c = 0; c < w.k(); ++c) y[r] += weights[r * w.k() + c] * x[c];
  }
  return y;
}

Vector normalized(const Vector& x, const float* weight, std::size_t n, float eps) {
  double squares = 0;
  for (std::size_t i = 0; i < n; ++i) squares += x[i] * x[i];
  Vector y(n);
  for (std::size_t i = 0; i < n; ++i) y[i] = x[i] / std::sqrt(squares / static_cast<double>(n) + eps) * weight[i];
  return y;
}

Vector hidden_layer(const rt::Mlp& mlp, const Vector& x) {
  const Vector gate = product(mlp.gate_proj, x), up = product(mlp.up_proj, x);
  Vector y(gate.size());
  for (std::size_t i = 0; i < y.size(); ++i) y[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
  return y;
}

// The sums that a model's imatrix should hold, by name and row.
class Reference {
 public:
  explicit Reference(const Model& model) : m_(model.impl()), c_(m_.file->config()) {}

  // `same_tokens`: all tokens are one, so what attention weighs is one vector too, and what v_b and o read is known.
  void add(const Trace& t, bool same_tokens) {
    const std::size_t hidden = t.hidden_size;
    for (std::uint32_t layer = 0; layer < t.n_layers; ++layer) {
      const rt::Layer& w = m_.weights.layers[layer];
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      for (std::size_t token = 0; token < t.n_tokens; ++token) {
        const float* before = t.hidden.data() + (layer * t.n_tokens + token) * hidden;
        const float* attention = t.attn_out.data() + (layer * t.n_tokens + token) * hidden;
        Vector x(before, before + hidden);
        const Vector h = normalized(x, w.input_layernorm, hidden, c_.rms_norm_eps);
        put(prefix + "self_attn.input", 0, h);
        if (w.mla) add_mla(prefix + "self_attn.", *w.mla, h, same_tokens);
        for (std::size_t i = 0; i < hidden; ++i) x[i] += attention[i];
        const Vector z = normalized(x, w.post_attention_layernorm, hidden, c_.rms_norm_eps);
        put(prefix + "mlp.input", 0, z);
        if (w.mlp) put(prefix + "mlp.down_proj.input", 0, hidden_layer(*w.mlp, z));
        if (!w.moe) continue;
        if (w.moe->shared_experts)
          put(prefix + "mlp.shared_experts.down_proj.input", 0, hidden_layer(*w.moe->shared_experts, z));
        const std::size_t at = ((layer - c_.first_k_dense_replace) * t.n_tokens + token) * t.n_experts_per_token;
        for (std::size_t i = 0; i < t.n_experts_per_token; ++i) {
          const auto expert = static_cast<std::uint32_t>(t.router_ids[at + i]);
          const std::uint32_t wanted[] = {expert};
          m_.experts->request(layer, wanted);
          put(prefix + "mlp.experts.input", expert, z);
          put(prefix + "mlp.experts.down_proj.input", expert, hidden_layer(*m_.experts->wait(layer, expert), z));
        }
      }
    }
    for (std::size_t token = 0; token < t.n_tokens; ++token) {
      const float* state = t.final_norm.data() + token * hidden;
      put("lm_head.input", 0, Vector(state, state + hidden));
    }
  }

  std::map<std::pair<std::string, std::size_t>, std::pair<Vector, std::uint64_t>> sums;
  std::map<std::string, Vector> moments;  // lower triangles, of every input that there is one of

 private:
  void add_mla(const std::string& prefix, const rt::Mla& w, const Vector& h, bool same_tokens) {
    const Vector c_q =
        c_.q_lora_rank > 0 ? normalized(product(w.q_a_proj, h), w.q_a_layernorm, c_.q_lora_rank, c_.rms_norm_eps) : h;
    if (c_.q_lora_rank > 0) put(prefix + "q_b_proj.input", 0, c_q);
    const Vector q = product(c_.q_lora_rank > 0 ? w.q_b_proj : w.q_proj, c_q);
    Vector heads;
    const Vector latent = normalized(product(w.kv_a_proj, h), w.kv_a_layernorm, c_.kv_lora_rank, c_.rms_norm_eps);
    for (std::uint32_t head = 0; head < c_.num_attention_heads; ++head) {
      const auto begin = q.begin() + head * c_.qk_head_dim();
      put(prefix + "k_b_proj.input", head, Vector(begin, begin + c_.qk_nope_head_dim));
      if (!same_tokens) continue;
      put(prefix + "v_b_proj.input", head, latent);
      const Vector value = product(w.v_b[head], latent);
      heads.insert(heads.end(), value.begin(), value.end());
    }
    if (same_tokens) put(prefix + "o_proj.input", 0, heads);
  }

  void put(const std::string& name, std::size_t row, const Vector& x) {
    auto& [squares, tokens] = sums[{name, row}];
    squares.resize(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) squares[i] += x[i] * x[i];
    ++tokens;
    Vector& triangle = moments[name];
    triangle.resize(x.size() * (x.size() + 1) / 2);
    std::size_t at = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      for (std::size_t j = 0; j <= i; ++j) triangle[at++] += x[i] * x[j];
    }
  }

  const Model::Impl& m_;
  const rt::ModelConfig& c_;
};

void check_against_reference(const std::string& name, const eval::Windows& windows, bool same_tokens) {
  CAPTURE(name);
  const auto model = test::open_model(name);
  const rt::Imatrix imatrix = collect(model, windows);
  Reference reference(*model);
  for (std::uint32_t i = 0; i < windows.n_windows(); ++i) {
    const auto traced = trace(model, windows.window(i));
    REQUIRE(traced.ok());
    reference.add(*traced, same_tokens);
  }
  CHECK(imatrix.n_tokens == windows.tokens.size());
  std::size_t n_checked = 0;
  for (const rt::ImatrixInput& input : imatrix.inputs) {
    for (std::size_t row = 0; row < input.n; ++row) {
      const auto found = reference.sums.find({input.name, row});
      if (found == reference.sums.end()) continue;
      CAPTURE(input.name);
      CAPTURE(row);
      const auto& [squares, n_tokens] = found->second;
      REQUIRE(squares.size() == input.k);
      CHECK(input.tokens[row] == n_tokens);
      double error = 0, total = 0;
      for (std::size_t c = 0; c < input.k; ++c) {
        error += std::fabs(input.squares[row * input.k + c] - squares[c]);
        total += squares[c];
      }
      CHECK(error <= 1e-3 * total);
      ++n_checked;
    }
  }
  CHECK(n_checked == reference.sums.size());
  std::size_t n_moments = 0;
  for (const rt::ImatrixInput& input : imatrix.inputs) {
    const auto found = reference.moments.find(input.name);
    if (input.moments.empty() || found == reference.moments.end()) continue;
    CAPTURE(input.name);
    const std::span<const float> values = input.moments.values();
    REQUIRE(values.size() == found->second.size());
    double error = 0, total = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      error += std::fabs(values[i] - found->second[i]);
      total += std::fabs(found->second[i]);
    }
    CHECK(error <= 1e-3 * total);
    ++n_moments;
  }
  CHECK(n_moments >= 2 * (model->info().n_layers));  // attention and MLP of every layer
}

}  // namespace

TEST_CASE("an imatrix holds the squares of what each matrix multiplies, per expert and head") {
  for (const char* name : {"deepseek-v3-bf16", "qwen2", "qwen3", "llama"}) {
    check_against_reference(name, windows_of(varied_tokens(3 * window_tokens)), false);
    check_against_reference(name, windows_of(std::vector<Token>(window_tokens, 77)), true);
  }
}

TEST_CASE("as documents, each is a sequence of its own") {
  constexpr Token bos = 3;
  std::vector<Token> tokens;
  for (const std::uint32_t length : {9u, 40u, 15u, 5u}) {  // the second is cut, the last too short
    tokens.push_back(bos);
    for (std::uint32_t i = 1; i < length; ++i) tokens.push_back(static_cast<Token>(10 + (i * 37 + length) % 300));
  }
  eval::WindowOptions options;
  options.window_tokens = window_tokens;
  options.documents = true;
  const auto windows = eval::make_windows(tokens, true, options, "text");
  REQUIRE(windows.ok());
  REQUIRE(windows->n_windows() == 3);
  CHECK(windows->tokens.size() == 9 + window_tokens + 15);
  check_against_reference("deepseek-v3-bf16", *windows, false);
}

TEST_CASE("an imatrix is the same for any number of threads, after a stop, and as a sum of its windows") {
  const auto model = test::open_model("deepseek-v3-bf16");
  const std::vector<Token> tokens = varied_tokens(4 * window_tokens);
  const eval::Windows windows = windows_of(tokens);
  const std::string whole = fingerprint_with(model, windows, 1);
  CHECK(fingerprint_with(model, windows, 3) == whole);

  const std::string state = test::temporary_directory() + "/imatrix.state";
  std::atomic<bool> stop = false;
  eval::CollectOptions options;
  options.moments = all_moments;
  options.state_path = state;
  options.stop = &stop;
  options.on_progress = [&](std::uint64_t n_done, std::uint64_t) { stop = n_done == 2; };
  const auto stopped = eval::collect_imatrix(model, windows, options);
  REQUIRE_FALSE(stopped.ok());
  CHECK(stopped.error().code == ErrorCode::cancelled);
  const auto unfinished = rt::Imatrix::load(state);
  REQUIRE(unfinished.ok());
  CHECK(unfinished->windows_done == 2);
  rt::Imatrix sum = rt::Imatrix::zeros(model->impl().file->config(), unfinished->identity);
  CHECK(sum.add(*unfinished, state).error().text().find("not finished") != std::string::npos);
  stop = false;
  options.on_progress = {};
  CHECK(collect(model, windows, options).fingerprint() == whole);
  const auto other = eval::collect_imatrix(model, windows_of(varied_tokens(2 * window_tokens)), options);
  REQUIRE_FALSE(other.ok());
  CHECK(other.error().text().find("other work") != std::string::npos);

  const std::string path = test::temporary_directory() + "/part.imatrix";
  for (std::uint32_t first = 0; first < windows.n_windows(); first += 2) {
    const std::vector<Token> part(tokens.begin() + first * window_tokens, tokens.begin() + (first + 2) * window_tokens);
    REQUIRE(collect(model, windows_of(part)).save(path).ok());
    const auto loaded = rt::Imatrix::load(path);
    REQUIRE(loaded.ok());
    REQUIRE(sum.add(*loaded, path).ok());
  }
  CHECK(sum.n_tokens == tokens.size());
  const rt::Imatrix at_once = collect(model, windows);
  for (std::size_t i = 0; i < sum.inputs.size(); ++i) {
    CHECK(sum.inputs[i].tokens == at_once.inputs[i].tokens);
    for (std::size_t j = 0; j < sum.inputs[i].squares.size(); ++j)
      CHECK(sum.inputs[i].squares[j] == doctest::Approx(at_once.inputs[i].squares[j]).epsilon(1e-12));
    const std::span<const float> moments = sum.inputs[i].moments.values();
    REQUIRE(moments.size() == at_once.inputs[i].moments.values().size());
    double error = 0, total = 0;
    for (std::size_t j = 0; j < moments.size(); ++j) {
      error += std::fabs(moments[j] - at_once.inputs[i].moments.values()[j]);
      total += std::fabs(moments[j]);
    }
    CHECK(error <= 1e-6 * total);
  }
  options.moments = {};  // a state with moments is no state of a collection without
  REQUIRE(at_once.save(state).ok());
  rt::Imatrix renamed = at_once;
  renamed.work = "a-b-moments 65536 0 1000000";
  REQUIRE(renamed.save(state).ok());
  CHECK(eval::collect_imatrix(model, windows, options).error().text().find("other work") != std::string::npos);
}

TEST_CASE("moments are of the inputs asked for, and those of several runs go together") {
  const auto model = test::open_model("deepseek-v3-bf16");
  const rt::ModelConfig& config = model->impl().file->config();
  const eval::Windows windows = windows_of(varied_tokens(window_tokens));
  const rt::Imatrix whole = collect(model, windows);
  eval::CollectOptions options;
  options.moments = {1u << 16, 0, 1};
  const rt::Imatrix first = collect(model, windows, options);
  options.moments = {1u << 16, 1, 1000};
  const rt::Imatrix rest = collect(model, windows, options);
  options.moments = {config.hidden_size - 1};
  const rt::Imatrix narrow = collect(model, windows, options);
  options.moments = {};
  const rt::Imatrix none = collect(model, windows, options);
  CHECK(whole.has_moments());
  CHECK_FALSE(none.has_moments());
  CHECK(none.fingerprint() != whole.fingerprint());
  rt::Imatrix sum = rt::Imatrix::zeros(config, whole.identity);
  const std::string path = test::temporary_directory() + "/layers.imatrix";
  for (const rt::Imatrix* part : {&first, &rest}) {
    REQUIRE(part->save(path).ok());
    const auto loaded = rt::Imatrix::load(path);
    REQUIRE(loaded.ok());
    REQUIRE(sum.add(*loaded, path).ok());
  }
  const std::vector<rt::MatrixInput> inputs = rt::matrix_inputs(config);
  std::uint64_t n_bytes = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    CAPTURE(inputs[i].name);
    const std::span<const float> moments = whole.inputs[i].moments.values(), added = sum.inputs[i].moments.values();
    n_bytes += moments.size_bytes();
    CHECK(moments.empty() != rt::may_have_moments(inputs[i].role));
    CHECK(std::equal(moments.begin(), moments.end(), added.begin(), added.end()));
    CHECK(first.inputs[i].moments.empty() == (moments.empty() || inputs[i].layer > 0));
    CHECK(narrow.inputs[i].moments.empty() == (moments.empty() || inputs[i].k >= config.hidden_size));
    for (std::size_t c = 0; c < (moments.empty() ? 0 : inputs[i].k); ++c)
      CHECK(moments[c * (c + 1) / 2 + c] == doctest::Approx(whole.inputs[i].squares[c]).epsilon(1e-5));
  }
  CHECK(all_moments.bytes(config) == n_bytes);

  // Experts read what the router sent them: their layer's moments are theirs.
  const auto importance = rt::Importance::of(whole, config, whole.identity, path);
  REQUIRE(importance.ok());
  for (const rt::BlobSpec& blob : rt::expected_blobs(config)) {
    if (blob.rule != rt::PartRule::experts) continue;
    const rt::ImatrixInput* gate = importance->moments(blob, blob.matrices[0]);
    REQUIRE(gate != nullptr);
    CHECK(gate->name == "model.layers." + std::to_string(blob.layer) + ".mlp.input");
    CHECK(importance->moments(blob, blob.matrices[2]) == nullptr);
  }
}

TEST_CASE("moments that do not fit the memory are refused before any work") {
  const auto model = test::open_model("deepseek-v3-bf16");
  const eval::Windows windows = windows_of(varied_tokens(window_tokens));
  eval::CollectOptions options;
  options.moments = all_moments;
  options.memory_bytes = all_moments.bytes(model->impl().file->config()) - 1;
  options.state_path = test::temporary_directory() + "/too-large.state";
  const auto refused = eval::collect_imatrix(model, windows, options);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == ErrorCode::out_of_memory);
  CHECK(refused.error().text().find("--moments-layers") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(options.state_path));
  options.moments = {};  // none need none
  options.memory_bytes = 1;
  CHECK(eval::collect_imatrix(model, windows, options).ok());
}

TEST_CASE("moments that are damaged are refused") {
  const std::string path = test::temporary_directory() + "/bad.imatrix";
  const rt::Imatrix sound = collect(test::open_model("qwen2"), windows_of(varied_tokens(window_tokens)));
  const auto refusal = [&](std::size_t at, float value) {
    rt::Imatrix damaged = sound;
    rt::Moments moments = rt::Moments::zeros(sound.inputs[0].k);
    moments.add(sound.inputs[0].moments);
    moments.sums()[at] = value;
    damaged.inputs[0].moments = moments;
    REQUIRE(damaged.save(path).ok());
    const auto loaded = rt::Imatrix::load(path);
    CHECK(rt::Imatrix::load(path, rt::MomentsOf::none).ok());
    return loaded.ok() ? std::string() : loaded.error().text();
  };
  CHECK(refusal(0, 1).empty());
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    CHECK(refusal(1, bad).find("the moments of model.layers.0.self_attn.input") != std::string::npos);
  }
  CHECK(refusal(2, -1).find("the moments of") != std::string::npos);
  CHECK(refusal(1, -1).empty());

  rt::Imatrix narrow = sound;
  narrow.inputs[0].moments = rt::Moments::zeros(sound.inputs[0].k - 1);
  REQUIRE(narrow.save(path).ok());
  CHECK(rt::Imatrix::load(path).error().text().find("shape or type of the moments of") != std::string::npos);

  REQUIRE(sound.save(path).ok());
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 5000);
  CHECK_FALSE(rt::Imatrix::load(path).ok());
}

TEST_CASE("experts that saw few tokens borrow from their layer, another model's imatrix is refused") {
  const auto model = test::open_model("deepseek-v3-bf16");
  const rt::ModelConfig& config = model->impl().file->config();
  rt::Imatrix imatrix = rt::Imatrix::zeros(config, "id");
  const std::vector<rt::MatrixInput> inputs = rt::matrix_inputs(config);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].role != rt::InputRole::expert_down) continue;
    rt::ImatrixInput& input = imatrix.inputs[i];
    input.tokens[0] = 1000;
    input.tokens[1] = 32;
    for (std::uint32_t c = 0; c < input.k; ++c) {
      input.squares[c] = 1000.0 * 3;
      input.squares[input.k + c] = 32.0 * 5;
    }
  }
  const auto importance = rt::Importance::of(imatrix, config, "id", "file");
  REQUIRE(importance.ok());
  const double mean = (3000.0 + 160) / 1032;
  bool seen = false;
  for (const rt::BlobSpec& blob : rt::expected_blobs(config)) {
    if (blob.rule != rt::PartRule::experts || blob.expert > 2) continue;
    seen = true;
    const std::vector<float> columns = importance->columns(blob, blob.matrices[2], 2);
    REQUIRE(columns.size() == blob.matrices[2].k);
    const double wanted = blob.expert == 0 ? 3 : blob.expert == 1 ? (160 + 96 * mean) / 128 : mean;
    CHECK(columns.front() == doctest::Approx(wanted));
    CHECK(columns.back() == doctest::Approx(wanted));
    CHECK(importance->columns(blob, blob.matrices[0], 0).empty());  // nobody's tokens: nothing is known
  }
  CHECK(seen);
  const auto refused = rt::Importance::of(imatrix, config, "other id", "some.imatrix");
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().text().find("some.imatrix: is the imatrix of another model") != std::string::npos);
  CHECK(*eval::identity_of(*model) != *eval::identity_of(*test::open_model("qwen2")));
  CHECK(*eval::identity_of(*model) == *eval::identity_of(*test::open_model("deepseek-v3-bf16", "r4.5")));
}

TEST_CASE("a text shorter than the context gives no imatrix") {
  const auto result = eval::collect_imatrix(test::open_model("qwen2"), windows_of(varied_tokens(20)), {});
  REQUIRE_FALSE(result.ok());
  CHECK(result.error().text().find("fewer than one context") != std::string::npos);
}
