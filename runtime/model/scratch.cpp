#include "runtime/model/scratch.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/attention/flash.h"

namespace r1::rt {
namespace {

// Rows of experts at once: all of a usual batch. Larger batches go in waves of experts, and a wave must hold any one
// expert's tokens.
std::uint32_t expert_rows(const ModelConfig& c, std::uint32_t max_tokens) {
  constexpr std::uint32_t usual_rows = 4096;
  return std::max(c.num_experts_per_tok,
                  std::min(max_tokens * c.num_experts_per_tok, std::max(max_tokens, usual_rows)));
}

// Of what eh_proj reads.
std::uint64_t mtp_width(const ModelConfig& c) {
  return c.num_nextn_predict_layers > 0 ? 2 * std::uint64_t{c.hidden_size} : 0;
}

}  // namespace

std::uint64_t batch_bytes(const ModelConfig& c, std::uint32_t max_tokens, int n_threads, bool reads_bf16) {
  const auto input = [&](std::uint64_t k) {
    return std::uint64_t{simd::ActivationBuffer::bytes(1, static_cast<std::uint32_t>(k), reads_bf16)};
  };
  const std::uint64_t n_heads = c.num_attention_heads, hidden = c.hidden_size;
  const std::uint64_t d_q = c.is_mla() ? c.qk_head_dim() : c.head_dim, d_v = c.is_mla() ? c.v_head_dim : c.head_dim;
  const std::uint64_t width = std::max(c.intermediate_size, c.n_shared_experts * c.moe_intermediate_size);
  constexpr std::uint64_t f32 = sizeof(float);
  std::uint64_t token = 2 * hidden * f32 + input(hidden);          // residual, projected, hidden_input
  token += std::max((d_q + d_v) * n_heads, 2 * width) * f32;       // q and heads, or gate and up
  token += input(std::max({n_heads * d_v, width, mtp_width(c)}));  // wide_input
  if (c.is_mla()) {
    token += (c.q_lora_rank + c.kv_lora_rank + c.qk_rope_head_dim) * f32 + input(c.q_lora_rank);
  } else {
    token += std::uint64_t{2} * c.num_key_value_heads * c.head_dim * f32;
  }
  std::uint64_t bytes = token * max_tokens;
  if (c.is_moe()) {
    bytes += std::uint64_t{max_tokens} * (c.n_routed_experts + 2 * c.num_experts_per_tok) * f32;
    bytes += expert_rows(c, max_tokens) *
             (input(hidden) + 2 * c.moe_intermediate_size * f32 + input(c.moe_intermediate_size));
  }
  // Queries in words, their results, and the experts' rows, of every member.
  const std::uint64_t heads = c.is_mla() ? prefill_group_heads : n_heads / c.num_key_value_heads;
  const std::uint64_t member = heads * (2 * d_q + (d_v + 6) * f32) + 2 * c.num_experts_per_tok * f32;
  return bytes + member * max_tokens * static_cast<std::uint64_t>(n_threads);
}

Result<std::uint32_t> plan_batch(const ModelConfig& config, std::optional<std::uint32_t> wanted,
                                 std::uint32_t max_context, int n_threads, bool reads_bf16,
                                 std::uint64_t memory_bytes) {
  // The more tokens a batch has, the fewer times a long prompt's cache is decompressed. Sessions may share a batch,
  // however short they are.
  constexpr std::uint32_t usual_tokens = 4096, least_tokens = 64;
  constexpr std::uint64_t usual_bytes = std::uint64_t{2} << 30;
  const auto fits = [&](std::uint32_t tokens, std::uint64_t bytes) {
    return batch_bytes(config, tokens, n_threads, reads_bf16) <= bytes;
  };
  if (wanted && fits(*wanted, memory_bytes)) return *wanted;
  // Unasked, the buffers of prompts take 2 GiB or a quarter of the memory at most.
  std::uint32_t tokens = wanted ? *wanted : std::max(least_tokens, std::min(usual_tokens, max_context));
  const std::uint64_t limit_bytes = wanted ? memory_bytes : std::min(usual_bytes, memory_bytes / 4);
  while (tokens > 1 && !fits(tokens, limit_bytes)) tokens /= 2;
  if (!wanted && fits(tokens, memory_bytes)) return tokens;
  const auto gib = [](std::uint64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0 * 1024.0); };
  return Error{
      ErrorCode::out_of_memory,
      fmt::format("batches of {} tokens need {:.2f} GiB of buffers, but {:.2f} GiB of memory are left beside "
                  "the KV cache: ask for at most {} tokens a batch, or for less context",
                  wanted.value_or(tokens), gib(batch_bytes(config, wanted.value_or(tokens), n_threads, reads_bf16)),
                  gib(memory_bytes), tokens),
      "batch"};
}

Scratch::Scratch(const ModelConfig& c, std::uint32_t max_tokens_wanted, std::uint32_t max_logit_tokens_wanted,
                 std::uint32_t max_context, int n_threads)
    : max_tokens(max_tokens_wanted), max_logit_tokens(max_logit_tokens_wanted) {
  const std::size_t b = max_tokens;
  const std::size_t n_heads = c.num_attention_heads;
  const std::uint32_t q_dim = c.is_mla() ? c.qk_head_dim() : c.head_dim;                     // as projected
  const std::uint32_t d_qk = c.is_mla() ? c.kv_lora_rank + c.qk_rope_head_dim : c.head_dim;  // as attention sees it
  const std::uint32_t d_v = c.is_mla() ? c.kv_lora_rank : c.head_dim;
  const std::uint32_t head_out = c.is_mla() ? c.v_head_dim : c.head_dim;
  const std::size_t pairs = (c.is_mla() ? c.qk_rope_head_dim : c.head_dim) / 2;

  residual = Buffer<float>(b * c.hidden_size);
  projected = Buffer<float>(b * c.hidden_size);
  cos = Buffer<float>(b * pairs);
  sin = Buffer<float>(b * pairs);
  hidden_input = SharedInput(n_threads, max_tokens, 1, c.hidden_size);

  if (c.is_mla()) {
    q_a = Buffer<float>(b * c.q_lora_rank);
    kv_a = Buffer<float>(b * d_qk);
    if (c.q_lora_rank > 0) q_a_input = SharedInput(n_threads, max_tokens, 1, c.q_lora_rank);
  } else {
    k = Buffer<float>(b * c.num_key_value_heads * c.head_dim);
    v = Buffer<float>(b * c.num_key_value_heads * c.head_dim);
  }
  const std::uint32_t shared_width = c.n_shared_experts * c.moe_intermediate_size;
  const std::uint32_t dense_width = std::max(c.intermediate_size, shared_width);
  shared_floats = Buffer<float>(b * std::max(n_heads * (q_dim + head_out), std::size_t{2} * dense_width));
  q = Buffer<float>::part_of(shared_floats, 0, b * n_heads * q_dim);
  heads = Buffer<float>::part_of(shared_floats, q.size(), b * n_heads * head_out);
  wide_input =
      SharedInput(n_threads, max_tokens, 1,
                  std::max({c.num_attention_heads * head_out, dense_width, static_cast<std::uint32_t>(mtp_width(c))}));
  queries = QueryBuffer(attention_tile_tokens * n_heads, d_qk);
  run_part_floats_ = n_heads * (d_v + 2);
  run_parts.reserve(n_runs(max_context));

  dense = {dense_width, Buffer<float>::part_of(shared_floats, 0, b * dense_width),
           Buffer<float>::part_of(shared_floats, b * dense_width, b * dense_width), &wide_input};
  if (c.is_moe()) {
    const std::uint32_t top_k = c.num_experts_per_tok;
    router_logits = Buffer<float>(b * c.n_routed_experts);
    routing = {Buffer<std::uint32_t>(b * top_k), Buffer<float>(b * top_k)};
    max_expert_rows = expert_rows(c, max_tokens);
    expert_input = simd::ActivationBuffer(max_expert_rows, c.hidden_size);
    const std::size_t routed_floats = std::size_t{max_expert_rows} * c.moe_intermediate_size;
    routed_input = SharedInput(n_threads, max_expert_rows, top_k, c.moe_intermediate_size);
    routed = {c.moe_intermediate_size, Buffer<float>(routed_floats), Buffer<float>(routed_floats), &routed_input};
  }

  logits = Buffer<float>(std::size_t{max_logit_tokens} * c.vocab_size);

  const std::size_t tile = attention_tile_tokens, group = attention_group_heads;
  for (int i = 0; i < n_threads; ++i) {
    MemberScratch& m = members.emplace_back();
    m.q = QueryBuffer(tile * group, d_qk);
    m.out = Buffer<float>(tile * group * d_v);
    m.run_out = Buffer<float>(tile * group * d_v);
    m.max_sum = Buffer<float>(2 * tile * group);
    m.run_max_sum = Buffer<float>(2 * tile * group);
    m.prefill = PrefillScratch(c, max_tokens);
    m.split = SplitScratch(attention_group_heads, d_v);
    if (c.is_mla())
      m.head_rows = simd::ActivationBuffer(attention_tile_tokens, std::max(c.qk_nope_head_dim, c.kv_lora_rank));
    if (c.is_moe()) {
      m.routing = {Buffer<std::uint32_t>(c.num_experts_per_tok), Buffer<float>(c.num_experts_per_tok)};
      m.router = Buffer<float>(2 * std::size_t{c.n_routed_experts} + c.n_group);
      m.groups.reserve(c.n_routed_experts);
      m.requested.reserve(c.n_routed_experts);
      m.jobs.reserve(c.n_routed_experts + 1);
      m.n_rows_of_expert = Buffer<std::uint32_t>(c.n_routed_experts);
      m.row_token = Buffer<std::uint32_t>(b * c.num_experts_per_tok);
      m.row_weight = Buffer<float>(b * c.num_experts_per_tok);
    }
  }
}

void Scratch::grow_run_parts(std::uint32_t n_tokens) {
  while (run_parts.size() < n_runs(n_tokens)) run_parts.emplace_back(run_part_floats_);
}

}  // namespace r1::rt
