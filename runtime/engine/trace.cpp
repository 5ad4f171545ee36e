#include <r1/trace.h>

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <numeric>

#include "numa/thread_team.h"
#include "numa/topology.h"
#include "runtime/base/try.h"
#include "runtime/engine/session_impl.h"
#include "runtime/io/safetensors.h"
#include "runtime/model/forward.h"
#include "runtime/model/model_impl.h"

namespace r1 {
namespace {

Result<void> check_trace(const Model& model, std::span<const Token> tokens, const TraceOptions& options) {
  if (tokens.empty()) return Error{ErrorCode::invalid_argument, "no tokens to trace", "trace"};
  R1_CHECK(rt::check_tokens(tokens, model.info().vocab_size));
  R1_CHECK(rt::check_n_threads(options.n_threads));
  if (!options.positions.empty()) {
    if (options.positions.size() != tokens.size()) {
      return Error{ErrorCode::invalid_argument,
                   fmt::format("{} positions for {} tokens", options.positions.size(), tokens.size()), "trace"};
    }
    if (!std::is_sorted(options.positions.begin(), options.positions.end())) {
      return Error{ErrorCode::invalid_argument, "the positions are not ascending", "trace"};
    }
  }
  if (!options.batches.empty()) {
    const auto total = std::accumulate(options.batches.begin(), options.batches.end(), std::uint64_t{0});
    if (total != tokens.size() || std::count(options.batches.begin(), options.batches.end(), 0u) > 0) {
      return Error{ErrorCode::invalid_argument,
                   fmt::format("the batches hold {} tokens, not {} (and none may be empty)", total, tokens.size()),
                   "trace"};
    }
  }
  return {};
}

// Runs a sequence through a model in batches, with copies of all that happens.
class Tracer {
 public:
  Tracer(const Model& model, std::span<const Token> tokens, const TraceOptions& options)
      : model_(model.impl()),
        tokens_(tokens),
        positions_(options.positions),
        batches_(options.batches),
        team_({.n_threads = options.n_threads, .pin = true}),
        kv_(rt::kv_shape(config(), rt::kv_type_of(options.kv_type), true), n_tokens()),
        scratch_(config(), largest_batch(), largest_batch(), n_tokens(), team_.size()) {
    if (positions_.empty()) {
      positions_.resize(tokens.size());
      std::iota(positions_.begin(), positions_.end(), 0u);
    }
    if (batches_.empty()) batches_.push_back(n_tokens());
  }

  Result<Trace> run() {
    const rt::ModelConfig& c = config();
    const std::size_t t = n_tokens(), hidden = c.hidden_size;
    Trace trace;
    trace.n_tokens = n_tokens();
    trace.n_layers = c.num_hidden_layers;
    trace.hidden_size = c.hidden_size;
    trace.vocab_size = c.vocab_size;
    if (c.is_moe()) {
      trace.n_moe_layers = c.num_hidden_layers - std::min(c.first_k_dense_replace, c.num_hidden_layers);
      trace.n_experts_per_token = c.num_experts_per_tok;
    }
    trace.logits.resize(t * c.vocab_size);
    trace.hidden.resize((trace.n_layers + std::size_t{1}) * t * hidden);
    trace.attn_out.resize(trace.n_layers * t * hidden);
    trace.final_norm.resize(t * hidden);
    trace.router_ids.resize(trace.n_moe_layers * t * trace.n_experts_per_token);
    trace.router_weights.resize(trace.router_ids.size());

    R1_CHECK(kv_.grow(n_tokens()));
    scratch_.grow_run_parts(n_tokens());
    const auto run_batch = [&](std::uint32_t first, std::uint32_t n) -> Result<void> {
      rt::Probe probe{trace.n_tokens,
                      first,
                      trace.hidden.data(),
                      trace.attn_out.data(),
                      trace.final_norm.data(),
                      trace.router_ids.data(),
                      trace.router_weights.data()};
      rt::Pass pass = make_pass(first, n, 0);
      pass.probe = &probe;
      R1_CHECK(rt::run_forward(team_, pass));
      copy_logits(n, trace.logits.data() + first * std::size_t{c.vocab_size});
      return {};
    };
    R1_CHECK(for_each_batch(n_tokens(), run_batch));
    if (!model_.weights.mtp_layers.empty() && t > 1) {
      R1_CHECK(run_mtp(trace.final_norm.data(), trace.mtp_logits));
      R1_CHECK(run_mtp(trace.hidden.data() + trace.n_layers * t * hidden, trace.mtp_logits_prenorm));
    }
    return trace;
  }

 private:
  [[nodiscard]] const rt::ModelConfig& config() const { return model_.file->config(); }
  [[nodiscard]] std::uint32_t n_tokens() const { return static_cast<std::uint32_t>(tokens_.size()); }
  [[nodiscard]] std::uint32_t largest_batch() const {
    return batches_.empty() ? n_tokens() : *std::max_element(batches_.begin(), batches_.end());
  }

  // shift 1: slot t holds token t + 1, as the MTP head wants it.
  rt::Pass make_pass(std::uint32_t first, std::uint32_t n, std::uint32_t shift) {
    slots_.clear();
    for (std::uint32_t i = first; i < first + n; ++i) slots_.push_back({tokens_[i + shift], positions_[i], i, &kv_});
    return {.config = config(),
            .rope = model_.rope,
            .kernels = *model_.kernels,
            .weights = model_.weights,
            .experts = *model_.experts,
            .scratch = scratch_,
            .slots = slots_,
            .n_logit_tokens = n};
  }

  Result<void> run_mtp(const float* states, std::vector<float>& logits) {
    logits.resize((n_tokens() - std::size_t{1}) * config().vocab_size);
    return for_each_batch(n_tokens() - 1, [&](std::uint32_t first, std::uint32_t n) -> Result<void> {
      rt::Pass pass = make_pass(first, n, 1);
      R1_CHECK(
          rt::run_mtp(team_, pass, model_.weights.mtp_layers[0], states + first * std::size_t{config().hidden_size}));
      copy_logits(n, logits.data() + first * std::size_t{config().vocab_size});
      return {};
    });
  }

  template <class Fn>
  Result<void> for_each_batch(std::uint32_t n_tokens, Fn&& fn) {
    std::uint32_t first = 0;
    for (std::size_t i = 0; first < n_tokens; ++i) {
      const std::uint32_t n = std::min(batches_[i], n_tokens - first);
      R1_CHECK(fn(first, n));
      first += n;
    }
    return {};
  }

  void copy_logits(std::uint32_t n, float* out) const {
    std::copy_n(scratch_.logits.data(), std::size_t{n} * config().vocab_size, out);
  }

  const Model::Impl& model_;
  std::span<const Token> tokens_;
  std::vector<std::uint32_t> positions_, batches_;
  numa::ThreadTeam team_;
  rt::KvCache kv_;
  rt::Scratch scratch_;
  std::vector<rt::TokenSlot> slots_;
};

template <class T>
rt::NamedTensor named(const char* name, rt::Dtype dtype, std::vector<std::uint64_t> shape,
                      const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {name, dtype, std::move(shape), {bytes.begin(), bytes.end()}};
}

}  // namespace

Result<Trace> trace(std::shared_ptr<const Model> model, std::span<const Token> tokens, const TraceOptions& options) {
  if (model == nullptr) return Error{ErrorCode::invalid_argument, "no model", "trace"};
  R1_CHECK(check_trace(*model, tokens, options));
  try {
    Tracer tracer(*model, tokens, options);
    return tracer.run();
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory, fmt::format("no memory to trace {} tokens", tokens.size()), "trace"};
  } catch (const std::exception& e) {
    return Error{ErrorCode::io, e.what(), "trace"};
  }
}

Result<void> write_trace(const Trace& trace, const std::string& path) {
  const std::uint64_t t = trace.n_tokens, layers = trace.n_layers, hidden = trace.hidden_size, vocab = trace.vocab_size,
                      moe = trace.n_moe_layers, k = trace.n_experts_per_token;
  try {
    std::vector<rt::NamedTensor> tensors;
    tensors.push_back(named("logits", rt::Dtype::f32, {t, vocab}, trace.logits));
    tensors.push_back(named("hidden", rt::Dtype::f32, {layers + 1, t, hidden}, trace.hidden));
    tensors.push_back(named("attn_out", rt::Dtype::f32, {layers, t, hidden}, trace.attn_out));
    tensors.push_back(named("final_norm", rt::Dtype::f32, {t, hidden}, trace.final_norm));
    if (!trace.router_ids.empty()) {
      tensors.push_back(named("router_ids", rt::Dtype::i32, {moe, t, k}, trace.router_ids));
      tensors.push_back(named("router_weights", rt::Dtype::f32, {moe, t, k}, trace.router_weights));
    }
    if (!trace.mtp_logits.empty()) {
      tensors.push_back(named("mtp_logits", rt::Dtype::f32, {t - 1, vocab}, trace.mtp_logits));
      tensors.push_back(named("mtp_logits_prenorm", rt::Dtype::f32, {t - 1, vocab}, trace.mtp_logits_prenorm));
    }
    return rt::write_safetensors(path, tensors);
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory, "no memory to write the trace", path};
  }
}

}  // namespace r1
