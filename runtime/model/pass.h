// One forward pass over a batch: what every phase of it sees.
#pragma once

#include <r1/types.h>

#include <atomic>
#include <cstdint>
#include <span>

#include "numa/thread_team.h"
#include "runtime/attention/rope.h"
#include "runtime/expert_store/expert_store.h"
#include "runtime/kv_cache/kv_cache.h"
#include "runtime/model/input_observer.h"
#include "runtime/model/linear.h"
#include "runtime/model/profile.h"
#include "runtime/model/scratch.h"
#include "runtime/model/weights.h"
#include "simd/kernels.h"

namespace r1::rt {

// A token of the batch. It fills row `row` of its sequence's cache and sees rows 0 … row. Tokens of one batch that
// belong to one sequence come in order; several sequences may share a batch.
struct TokenSlot {
  Token id = 0;
  std::uint32_t position = 0;  // rotary; = row but in traces
  std::uint32_t row = 0;
  KvCache* kv = nullptr;
};

// Where a trace wants its copies; null pointers want nothing. Shapes as in r1/trace.h.
struct Probe {
  std::uint32_t n_tokens = 0;     // of the whole trace
  std::uint32_t first_token = 0;  // of this batch
  float* hidden = nullptr;
  float* attn_out = nullptr;
  float* final_norm = nullptr;
  std::int32_t* router_ids = nullptr;
  float* router_weights = nullptr;

  // Row of this batch's token in an array [stage, n_tokens, width].
  [[nodiscard]] std::size_t at(std::size_t stage, std::uint32_t token, std::size_t width) const {
    return (stage * n_tokens + first_token + token) * width;
  }
};

// The residual stream of a sequence where a layer begins. Passes of models that differ only from that layer on may
// start with it: the layers before it would say the same.
struct LayerCut {
  std::uint32_t layer = 0;
  float* residual = nullptr;  // [cache rows, hidden_size]
};

struct Pass {
  const ModelConfig& config;
  const Rope& rope;
  const simd::Kernels& kernels;
  const Weights& weights;
  ExpertStore& experts;
  Scratch& scratch;

  std::span<const TokenSlot> slots{};
  std::uint32_t n_logit_tokens = 0;       // logits of the last so many tokens
  std::span<const LayerCut> kept_cuts{};  // written, by ascending layers
  const LayerCut* start = nullptr;        // read instead of running the layers before it, whose cache rows stay empty
  const Probe* probe = nullptr;
  Profile* profile = nullptr;
  InputObserver* observer = nullptr;
  const std::atomic<bool>* cancel = nullptr;

  // What went wrong. The first layer with NaN or infinity is kept; the one behind the last is the head.
  static constexpr std::uint32_t no_layer = ~0u;
  std::atomic<std::uint32_t> numeric_layer = no_layer;
  std::atomic<bool> expert_missing = false;
  bool stopped = false;  // written by member 0 before the barrier that ends a layer, read by all behind it

  [[nodiscard]] std::uint32_t n_tokens() const { return static_cast<std::uint32_t>(slots.size()); }
  [[nodiscard]] MemberScratch& own(const numa::Member& member) const {
    return scratch.members[static_cast<std::size_t>(member.index())];
  }

  // What this member did since the last mark was `phase`.
  void mark(const numa::Member& member, Phase phase) const {
    if (profile != nullptr) profile->mark(member, phase);
  }

  void report_not_finite(std::uint32_t layer) {
    std::uint32_t known = numeric_layer.load(std::memory_order_relaxed);
    while (layer < known && !numeric_layer.compare_exchange_weak(known, layer, std::memory_order_relaxed)) {
    }
  }
};

// Shows rows [first_row, first_row + n_rows) of an input to the observer, if there is one.
inline void show_input(const numa::Member& member, const Pass& pass, InputRole role, std::uint32_t layer,
                       const simd::Activations& x, std::uint32_t first_row, std::uint32_t n_rows,
                       std::uint32_t index = 0) {
  if (pass.observer == nullptr) return;
  pass.observer->see(member, {role, static_cast<int>(layer), index}, simd::ActivationBuffer::x_row(x, first_row),
                     x.k_padded, n_rows);
}

// RMSNorm(x) of every row, ready for matrices. x [n_rows, ldx]
inline simd::Activations normalized(const numa::Member& member, Pass& pass, std::uint32_t layer, SharedInput& input,
                                    const float* x, std::size_t ldx, const float* weight, std::uint32_t n_rows,
                                    std::uint32_t k) {
  bool finite = true;
  const simd::Activations result =
      input.prepare(member, pass.kernels, n_rows, k, &finite, [&](std::uint32_t row, float* out) {
        pass.kernels.rms_norm(x + row * ldx, weight, k, pass.config.rms_norm_eps, out);
      });
  if (!finite) pass.report_not_finite(layer);
  return result;
}

// Adds rows [begin, end) of what a block computed to the residual stream of `token`, and checks the sum.
inline void add_to_residual(Pass& pass, std::uint32_t layer, std::uint32_t token, float weight, const float* y,
                            std::uint32_t begin, std::uint32_t end) {
  float* residual = pass.scratch.residual.at(std::size_t{token} * pass.config.hidden_size);
  pass.kernels.axpy(weight, y + begin, end - begin, residual + begin);
  if (!all_finite(residual + begin, end - begin)) pass.report_not_finite(layer);
}

}  // namespace r1::rt
