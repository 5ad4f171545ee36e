// The weights of a model as typed views into its mapped files, resolved once. Names are the checkpoint's.
#pragma once

#include <r1/result.h>

#include <optional>
#include <span>
#include <vector>

#include "runtime/model_file/model_file.h"
#include "simd/kernels.h"

namespace r1::rt {

using Matrix = simd::PackedMatrix;

// Multi-head latent attention.
struct Mla {
  Matrix q_a_proj, q_b_proj;              // [q_lora_rank, hidden], [n_heads · qk_head_dim, q_lora_rank]
  Matrix q_proj;                          // [n_heads · qk_head_dim, hidden] where q_lora_rank is 0
  Matrix kv_a_proj;                       // [kv_lora_rank + qk_rope_head_dim, hidden] (kv_a_proj_with_mqa)
  Matrix o_proj;                          // [hidden, n_heads · v_head_dim]
  std::span<const Matrix> k_b;            // per head [kv_lora_rank, qk_nope_head_dim]: query → latent
  std::span<const Matrix> v_b;            // per head [v_head_dim, kv_lora_rank]: latent → value
  const float* q_a_layernorm = nullptr;   // [q_lora_rank]
  const float* kv_a_layernorm = nullptr;  // [kv_lora_rank]
};

// Grouped-query attention.
struct Gqa {
  Matrix q_proj, k_proj, v_proj, o_proj;
  const float *q_bias = nullptr, *k_bias = nullptr, *v_bias = nullptr;  // null: none
  const float *q_norm = nullptr, *k_norm = nullptr;                     // [head_dim]; null: none
};

// down_proj(silu(gate_proj x) · up_proj x)
struct Mlp {
  Matrix gate_proj, up_proj, down_proj;
};

struct Moe {
  Matrix gate;                                     // [n_routed_experts, hidden]
  const float* e_score_correction_bias = nullptr;  // [n_routed_experts]
  std::optional<Mlp> shared_experts;               // one MLP of n_shared_experts · moe_intermediate_size
};

struct Layer {
  std::uint32_t index = 0;                          // in the checkpoint; MTP layers follow the last one
  const float* input_layernorm = nullptr;           // [hidden]
  const float* post_attention_layernorm = nullptr;  // [hidden]
  std::optional<Mla> mla;                           // one of the two
  std::optional<Gqa> gqa;
  std::optional<Mlp> mlp;  // one of the two
  std::optional<Moe> moe;
};

// Multi-token prediction (arXiv 2412.19437, section 2.2): its embedding and head are the model's.
struct MtpLayer {
  const float *enorm = nullptr, *hnorm = nullptr, *shared_head_norm = nullptr;  // [hidden]
  Matrix eh_proj;                                                               // [hidden, 2 · hidden]
  Layer layer;
};

struct Weights {
  Matrix embed_tokens;          // [vocab, hidden]
  Matrix lm_head;               // [vocab, hidden]; embed_tokens in tied models
  const float* norm = nullptr;  // [hidden]
  std::vector<Layer> layers;
  std::vector<MtpLayer> mtp_layers;
};

// The file must outlive the views. ModelFile has checked names and shapes.
[[nodiscard]] Result<Weights> resolve_weights(const ModelFile& file);

}  // namespace r1::rt
