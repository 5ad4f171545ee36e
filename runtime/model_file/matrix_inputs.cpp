#include "runtime/model_file/matrix_inputs.h"

#include <fmt/format.h>

namespace r1::rt {

using quant::TensorClass;

std::vector<MatrixInput> matrix_inputs(const ModelConfig& c) {
  std::vector<MatrixInput> inputs;
  const int n_layers = static_cast<int>(c.num_hidden_layers + c.num_nextn_predict_layers);
  for (int layer = 0; layer < n_layers; ++layer) {
    const auto add = [&](const char* name, InputRole role, std::uint32_t n, std::uint32_t k) {
      inputs.push_back({fmt::format("model.layers.{}.{}.input", layer, name), role, layer, n, k});
    };
    if (layer >= static_cast<int>(c.num_hidden_layers)) add("eh_proj", InputRole::eh_proj, 1, 2 * c.hidden_size);
    add("self_attn", InputRole::attention, 1, c.hidden_size);
    if (c.is_mla()) {
      if (c.q_lora_rank > 0) add("self_attn.q_b_proj", InputRole::q_b, 1, c.q_lora_rank);
      add("self_attn.k_b_proj", InputRole::k_b, c.num_attention_heads, c.qk_nope_head_dim);
      add("self_attn.v_b_proj", InputRole::v_b, c.num_attention_heads, c.kv_lora_rank);
    }
    add("self_attn.o_proj", InputRole::o, 1, c.num_attention_heads * (c.is_mla() ? c.v_head_dim : c.head_dim));
    add("mlp", InputRole::mlp, 1, c.hidden_size);
    if (!c.is_moe_layer(static_cast<std::uint32_t>(layer))) {
      add("mlp.down_proj", InputRole::down, 1, c.intermediate_size);
      continue;
    }
    if (c.n_shared_experts > 0)
      add("mlp.shared_experts.down_proj", InputRole::down, 1, c.n_shared_experts * c.moe_intermediate_size);
    add("mlp.experts", InputRole::expert_mlp, c.n_routed_experts, c.hidden_size);
    add("mlp.experts.down_proj", InputRole::expert_down, c.n_routed_experts, c.moe_intermediate_size);
  }
  inputs.push_back({"lm_head.input", InputRole::head, -1, 1, c.hidden_size});
  return inputs;
}

std::optional<InputRole> input_role(const ModelConfig& config, const BlobSpec& blob, const MatrixSpec& matrix) {
  if (blob.rule == PartRule::k_b) return InputRole::k_b;
  if (blob.rule == PartRule::v_b) return InputRole::v_b;
  switch (matrix.tensor_class) {
    case TensorClass::q_a:
    case TensorClass::kv_a:
    case TensorClass::q:
    case TensorClass::k:
    case TensorClass::v:
      return InputRole::attention;
    case TensorClass::q_b:
      return config.q_lora_rank > 0 ? InputRole::q_b : InputRole::attention;
    case TensorClass::o:
      return InputRole::o;
    case TensorClass::router:
    case TensorClass::dense_gate_up:
      return InputRole::mlp;
    case TensorClass::shared_expert:  // gate and up read the hidden state; a shared expert may be as wide as that is
      return matrix.source.ends_with("down_proj.weight") ? InputRole::down : InputRole::mlp;
    case TensorClass::dense_down:
      return InputRole::down;
    case TensorClass::routed_gate_up:
      return InputRole::expert_mlp;
    case TensorClass::routed_down:
      return InputRole::expert_down;
    case TensorClass::eh_proj:
      return InputRole::eh_proj;
    case TensorClass::head:
      return InputRole::head;
    case TensorClass::embed:
      if (config.tie_word_embeddings) return InputRole::head;
      return {};
    default:
      return {};
  }
}

bool may_have_moments(InputRole role) {
  return role == InputRole::attention || role == InputRole::q_b || role == InputRole::o || role == InputRole::mlp ||
         role == InputRole::down;
}

InputRole moments_role(InputRole role) {
  return role == InputRole::expert_mlp ? InputRole::mlp : role;
}

}  // namespace r1::rt
