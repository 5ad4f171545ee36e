// Everything inside a forward pass, for comparison with a reference when a model looks wrong.
#pragma once

#include <r1/model.h>
#include <r1/result.h>
#include <r1/session.h>
#include <r1/types.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace r1 {

struct TraceOptions {
  std::vector<std::uint32_t> positions;  // [n_tokens] rotary positions, ascending; empty: 0, 1, 2 …
  std::vector<std::uint32_t> batches;    // sizes of the steps to run in; empty: one batch
  int n_threads = 0;
  KvCacheType kv_type = KvCacheType::f32;
};

// T tokens, L layers, H hidden_size, V vocab_size, M MoE layers, k experts a token.
struct Trace {
  std::uint32_t n_tokens = 0, n_layers = 0, hidden_size = 0, vocab_size = 0, n_moe_layers = 0, n_experts_per_token = 0;
  std::vector<float> logits;          // [T, V]
  std::vector<float> hidden;          // [L + 1, T, H] residual stream: embedding, then after each layer
  std::vector<float> attn_out;        // [L, T, H] after o_proj, before the residual
  std::vector<float> final_norm;      // [T, H]
  std::vector<std::int32_t> router_ids;  // [M, T, k] ascending
  std::vector<float> router_weights;  // [M, T, k]
  std::vector<float> mtp_logits;      // [T − 1, V] from the state after the final norm; empty without an MTP layer
  std::vector<float> mtp_logits_prenorm;  // [T − 1, V] from the state before it
};

[[nodiscard]] Result<Trace> trace(std::shared_ptr<const Model> model, std::span<const Token> tokens,
                                  const TraceOptions& options = {});
[[nodiscard]] Result<void> write_trace(const Trace& trace, const std::string& path);  // safetensors

}  // namespace r1
