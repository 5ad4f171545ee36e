// Recipes: which format each tensor gets; sizes for DeepSeek-R1 in README.md.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "quant/format.h"

namespace r1::quant {

// What a matrix does in the model; names follow the checkpoint's projections.
enum class TensorClass : std::uint8_t {
  embed,   // model.embed_tokens
  head,    // lm_head, shared_head.head of the MTP layer
  norm,    // every norm weight, biases, e_score_correction_bias: always f32
  router,  // mlp.gate
  routed_gate_up,
  routed_down,
  shared_expert,  // mlp.shared_experts.*
  dense_gate_up,  // mlp.gate_proj, up_proj of dense layers (all layers of dense models)
  dense_down,
  q_a,
  q_b,
  kv_a,
  kv_b,  // stored as k_b (transposed per head) and v_b
  q,
  k,
  v,  // grouped-query attention of dense models
  o,
  eh_proj,  // MTP layer
};

inline constexpr int n_tensor_classes = 18;
// As recipe files spell them: "routed_gate_up".
[[nodiscard]] const char* class_name(TensorClass tensor_class);
[[nodiscard]] std::optional<TensorClass> class_from_name(std::string_view name);

struct TensorPlace {
  TensorClass tensor_class;
  int layer = -1;  // −1: outside the layers
  bool in_mtp_layer = false;
  int n_layers = 0;             // num_hidden_layers
  int first_moe_layer = 0;      // first_k_dense_replace
  bool dense_model = false;     // qwen2, llama, qwen3
  bool small_model = false;     // ≤ 3 B parameters
  bool source_is_bf16 = false;  // what "exact" keeps as bf16
};

struct Recipe {
  const char* name;
  const char* summary;  // one line for --help
};

[[nodiscard]] std::span<const Recipe> recipes();  // smallest first
[[nodiscard]] const Recipe* find_recipe(std::string_view name);
[[nodiscard]] Format choose_format(const Recipe& recipe, const TensorPlace& place);

}  // namespace r1::quant
