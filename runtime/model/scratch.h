// Every buffer of a forward pass, planned once per session for batches of max_tokens: decode allocates nothing.
#pragma once

#include <r1/result.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "runtime/attention/flash.h"
#include "runtime/attention/prefill.h"
#include "runtime/model/buffer.h"
#include "runtime/model/shared_input.h"
#include "runtime/model/weights.h"
#include "runtime/model_file/config.h"
#include "simd/kernels.h"

namespace r1::rt {

// Tokens and heads that attention handles at a time.
inline constexpr std::uint32_t attention_tile_tokens = simd::max_gemv_tokens;
inline constexpr std::uint32_t attention_group_heads = 16;

// The hidden layer of MLPs: rows of gate and up, and silu(gate) · up quantized for down_proj.
struct Intermediate {
  std::uint32_t width = 0;
  Buffer<float> gate, up;        // [max_rows, width]
  SharedInput* input = nullptr;  // k = width
};

// One MLP and the rows it works on.
struct MlpJob {
  const Mlp* w = nullptr;
  simd::Activations x;  // its input, from row x_row
  std::uint32_t x_row = 0;
  std::uint32_t n_rows = 0;
  Intermediate* intermediate = nullptr;  // where its hidden layer goes, from row intermediate_row
  std::uint32_t intermediate_row = 0;
  const std::uint32_t* row_token = nullptr;  // [n_rows] token of each row; null: row = token
  const float* row_weight = nullptr;         // [n_rows]; null: 1
  int expert = -1;                           // of the layer's routed experts; −1: a dense MLP or the shared expert
};

// The experts a batch goes to.
struct Routing {
  Buffer<std::uint32_t> expert_ids;  // [n_tokens, num_experts_per_tok] ascending per token
  Buffer<float> weights;             // [n_tokens, num_experts_per_tok]
};

// What one expert has to do: rows first_row … of the batch's rows sorted by expert.
struct ExpertGroup {
  std::uint32_t expert = 0, first_row = 0, n_rows = 0;
};

// What one member needs for itself.
struct MemberScratch {
  Buffer<std::byte> tile{simd::gemm_tile_bytes};  // of unpacked weights

  QueryBuffer q;                       // [tile, group] rows
  Buffer<float> out, run_out;          // [tile, group, d_v] attention of all splits so far, and of the run at hand
  Buffer<float> max_sum, run_max_sum;  // [2, tile, group]
  SplitScratch split;                  // of a group
  simd::ActivationBuffer head_rows;    // [tile] rows of one head: q_nope, then latents
  PrefillScratch prefill;

  Routing routing;                         // of a single token
  Buffer<float> router;                    // choose_experts' scratch
  std::vector<ExpertGroup> groups;         // capacity n_routed_experts
  std::vector<std::uint32_t> requested;    // their ids
  std::vector<MlpJob> jobs;                // capacity n_routed_experts + 1
  Buffer<std::uint32_t> n_rows_of_expert;  // [n_routed_experts]
  Buffer<std::uint32_t> row_token;         // [max_tokens · num_experts_per_tok]
  Buffer<float> row_weight;                // [max_tokens · num_experts_per_tok]
};

// What a scratch for batches of max_tokens takes, but for small change; only what is used of it is committed.
[[nodiscard]] std::uint64_t batch_bytes(const ModelConfig& config, std::uint32_t max_tokens, int n_threads,
                                        bool reads_bf16);
// How many tokens a batch may have: `wanted`, or what a usual prompt's pace needs as far as the memory reaches. The
// error says what is needed and what there is.
[[nodiscard]] Result<std::uint32_t> plan_batch(const ModelConfig& config, std::optional<std::uint32_t> wanted,
                                               std::uint32_t max_context, int n_threads, bool reads_bf16,
                                               std::uint64_t memory_bytes);

struct Scratch {
  Scratch(const ModelConfig& config, std::uint32_t max_tokens, std::uint32_t max_logit_tokens,
          std::uint32_t max_context, int n_threads);
  Scratch(const Scratch&) = delete;  // parts point to others
  Scratch& operator=(const Scratch&) = delete;

  std::uint32_t max_tokens = 0, max_logit_tokens = 0;

  Buffer<float> residual;    // [max_tokens, hidden]
  Buffer<float> projected;   // [max_tokens, hidden] what a block adds to it
  Buffer<float> cos, sin;    // [max_tokens, rotary pairs]
  SharedInput hidden_input;  // k = hidden

  // MLA
  Buffer<float> q_a;   // [max_tokens, q_lora_rank]
  Buffer<float> kv_a;  // [max_tokens, kv_lora_rank + qk_rope_head_dim]
  SharedInput q_a_input;
  // GQA
  Buffer<float> k, v;  // [max_tokens, n_kv_heads · head_dim]
  // Both
  Buffer<float> q;      // [max_tokens, n_heads · d], d = qk_head_dim or head_dim
  Buffer<float> heads;  // [max_tokens, n_heads · d_v]
  QueryBuffer queries;  // [tile, n_heads] rows

  // What a layer needs at one time lies where it needs something else at another, with barriers between: q and heads
  // where gate and up of dense MLPs do, and what o_proj, their down_proj and eh_proj read in one input. At R1's shapes
  // this is what lets a batch of 4,096 tokens stay below 2 GiB.
  Buffer<float> shared_floats;
  SharedInput wide_input;

  // MLPs
  Buffer<float> router_logits;  // [max_tokens, n_routed_experts]
  Routing routing;              // of a batch
  std::uint32_t max_expert_rows = 0;
  simd::ActivationBuffer expert_input;  // [max_expert_rows] rows of hidden, sorted by expert
  Intermediate dense, routed;
  SharedInput routed_input;

  Buffer<float> logits;  // [max_logit_tokens, vocab]

  std::vector<MemberScratch> members;

  // Room for the parts of a sequence of n_tokens: one per run of splits, [n_heads, d_v + 2]. Grows with the KV cache.
  void grow_run_parts(std::uint32_t n_tokens);
  std::vector<Buffer<float>> run_parts;

 private:
  std::size_t run_part_floats_ = 0;
};

}  // namespace r1::rt
