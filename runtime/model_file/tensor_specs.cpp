#include "runtime/model_file/tensor_specs.h"

#include <fmt/format.h>

#include <utility>

namespace r1::rt {
namespace {

using quant::TensorClass;

class SpecList {
 public:
  explicit SpecList(const ModelConfig& config) : c_(config) {}

  void add(std::string name, TensorClass tensor_class, std::uint32_t rows, std::uint32_t k, int layer = -1) {
    BlobSpec blob;
    blob.layer = layer;
    blob.matrices.push_back({name, tensor_class, rows, k});
    blob.name = std::move(name);
    blobs_.push_back(std::move(blob));
  }

  void add_norm(std::string name, std::uint32_t size, int layer = -1) {
    add(std::move(name), TensorClass::norm, 1, size, layer);
  }

  void add_layer(int layer, bool moe) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    add_norm(prefix + "input_layernorm.weight", c_.hidden_size, layer);
    c_.is_mla() ? add_mla(prefix + "self_attn.", layer) : add_grouped_query(prefix + "self_attn.", layer);
    add_norm(prefix + "post_attention_layernorm.weight", c_.hidden_size, layer);
    if (!moe) {
      add_mlp(prefix + "mlp.", TensorClass::dense_gate_up, TensorClass::dense_down, c_.intermediate_size, layer);
      return;
    }
    add(prefix + "mlp.gate.weight", TensorClass::router, c_.n_routed_experts, c_.hidden_size, layer);
    add_norm(prefix + "mlp.gate.e_score_correction_bias", c_.n_routed_experts, layer);
    if (c_.n_shared_experts > 0) {
      add_mlp(prefix + "mlp.shared_experts.", TensorClass::shared_expert, TensorClass::shared_expert,
              c_.n_shared_experts * c_.moe_intermediate_size, layer);
    }
  }

  // The multi-token-prediction layer: DeepSeek-V3 report, section 2.2.
  void add_mtp_layer(int layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    add_norm(prefix + "enorm.weight", c_.hidden_size, layer);
    add_norm(prefix + "hnorm.weight", c_.hidden_size, layer);
    add(prefix + "eh_proj.weight", TensorClass::eh_proj, c_.hidden_size, 2 * c_.hidden_size, layer);
    add_layer(layer, c_.is_moe());
    add_norm(prefix + "shared_head.norm.weight", c_.hidden_size, layer);
  }

  void add_experts(int layer) {
    for (std::uint32_t e = 0; e < c_.n_routed_experts; ++e) {
      BlobSpec blob;
      blob.name = fmt::format("model.layers.{}.mlp.experts.{}", layer, e);
      blob.rule = PartRule::experts;
      blob.layer = layer;
      blob.expert = static_cast<int>(e);
      blob.matrices = {
          {blob.name + ".gate_proj.weight", TensorClass::routed_gate_up, c_.moe_intermediate_size, c_.hidden_size},
          {blob.name + ".up_proj.weight", TensorClass::routed_gate_up, c_.moe_intermediate_size, c_.hidden_size},
          {blob.name + ".down_proj.weight", TensorClass::routed_down, c_.hidden_size, c_.moe_intermediate_size}};
      blob.n_parts = 3;
      blobs_.push_back(std::move(blob));
    }
  }

  [[nodiscard]] std::vector<BlobSpec> take() { return std::move(blobs_); }

 private:
  void add_mlp(const std::string& prefix, TensorClass gate_up, TensorClass down, std::uint32_t intermediate,
               int layer) {
    add(prefix + "gate_proj.weight", gate_up, intermediate, c_.hidden_size, layer);
    add(prefix + "up_proj.weight", gate_up, intermediate, c_.hidden_size, layer);
    add(prefix + "down_proj.weight", down, c_.hidden_size, intermediate, layer);
  }

  void add_mla(const std::string& prefix, int layer) {
    const std::uint32_t heads = c_.num_attention_heads;
    if (c_.q_lora_rank > 0) {
      add(prefix + "q_a_proj.weight", TensorClass::q_a, c_.q_lora_rank, c_.hidden_size, layer);
      add_norm(prefix + "q_a_layernorm.weight", c_.q_lora_rank, layer);
      add(prefix + "q_b_proj.weight", TensorClass::q_b, heads * c_.qk_head_dim(), c_.q_lora_rank, layer);
    } else {
      add(prefix + "q_proj.weight", TensorClass::q_b, heads * c_.qk_head_dim(), c_.hidden_size, layer);
    }
    add(prefix + "kv_a_proj_with_mqa.weight", TensorClass::kv_a, c_.kv_lora_rank + c_.qk_rope_head_dim, c_.hidden_size,
        layer);
    add_norm(prefix + "kv_a_layernorm.weight", c_.kv_lora_rank, layer);
    add_kv_b_half(prefix, "k_b_proj.weight", PartRule::k_b, c_.kv_lora_rank, c_.qk_nope_head_dim, layer);
    add_kv_b_half(prefix, "v_b_proj.weight", PartRule::v_b, c_.v_head_dim, c_.kv_lora_rank, layer);
    add(prefix + "o_proj.weight", TensorClass::o, c_.hidden_size, heads * c_.v_head_dim, layer);
  }

  void add_kv_b_half(const std::string& prefix, const char* name, PartRule rule, std::uint32_t rows, std::uint32_t k,
                     int layer) {
    BlobSpec blob;
    blob.name = prefix + name;
    blob.rule = rule;
    blob.layer = layer;
    blob.matrices = {{prefix + "kv_b_proj.weight", TensorClass::kv_b, rows, k}};
    blob.n_parts = c_.num_attention_heads;
    blobs_.push_back(std::move(blob));
  }

  void add_grouped_query(const std::string& prefix, int layer) {
    const std::uint32_t q_width = c_.num_attention_heads * c_.head_dim, kv_width = c_.num_key_value_heads * c_.head_dim;
    const std::pair<const char*, std::uint32_t> projections[] = {
        {"q_proj", q_width}, {"k_proj", kv_width}, {"v_proj", kv_width}};
    const TensorClass classes[] = {TensorClass::q, TensorClass::k, TensorClass::v};
    for (int i = 0; i < 3; ++i) {
      add(prefix + projections[i].first + ".weight", classes[i], projections[i].second, c_.hidden_size, layer);
      if (c_.attention_bias) add_norm(prefix + projections[i].first + ".bias", projections[i].second, layer);
    }
    if (c_.qk_norm) {
      add_norm(prefix + "q_norm.weight", c_.head_dim, layer);
      add_norm(prefix + "k_norm.weight", c_.head_dim, layer);
    }
    add(prefix + "o_proj.weight", TensorClass::o, c_.hidden_size, q_width, layer);
  }

  const ModelConfig& c_;
  std::vector<BlobSpec> blobs_;
};

// Parameters of a dense model: layers and embeddings.
std::uint64_t dense_parameters(const ModelConfig& c) {
  const std::uint64_t q_width = std::uint64_t{c.num_attention_heads} * c.head_dim,
                      kv_width = std::uint64_t{c.num_key_value_heads} * c.head_dim;
  const std::uint64_t layer = c.hidden_size * (2 * q_width + 2 * kv_width + 3 * std::uint64_t{c.intermediate_size});
  return c.num_hidden_layers * layer + std::uint64_t{c.vocab_size} * c.hidden_size * (c.tie_word_embeddings ? 1 : 2);
}

}  // namespace

std::vector<BlobSpec> expected_blobs(const ModelConfig& config) {
  SpecList list(config);
  const int n_layers = static_cast<int>(config.num_hidden_layers),
            n_mtp = static_cast<int>(config.num_nextn_predict_layers);
  list.add("model.embed_tokens.weight", TensorClass::embed, config.vocab_size, config.hidden_size);
  for (int layer = 0; layer < n_layers; ++layer)
    list.add_layer(layer, config.is_moe_layer(static_cast<std::uint32_t>(layer)));
  list.add_norm("model.norm.weight", config.hidden_size);
  if (!config.tie_word_embeddings) list.add("lm_head.weight", TensorClass::head, config.vocab_size, config.hidden_size);
  for (int layer = n_layers; layer < n_layers + n_mtp; ++layer) list.add_mtp_layer(layer);
  for (int layer = 0; layer < n_layers + n_mtp; ++layer) {
    if (config.is_moe_layer(static_cast<std::uint32_t>(layer))) list.add_experts(layer);
  }
  return list.take();
}

quant::TensorClass recipe_class(const ModelConfig& config, const MatrixSpec& matrix) {
  const bool is_tied = config.tie_word_embeddings && matrix.tensor_class == TensorClass::embed;
  return is_tied ? TensorClass::head : matrix.tensor_class;
}

quant::Format matrix_format(const ModelConfig& config, const quant::Recipe& recipe, const BlobSpec& blob,
                            const MatrixSpec& matrix, bool source_is_bf16) {
  constexpr std::uint64_t small_model_parameters = 3'000'000'000;
  quant::TensorPlace place;
  place.tensor_class = recipe_class(config, matrix);
  place.layer = blob.layer;
  place.n_layers = static_cast<int>(config.num_hidden_layers);
  place.in_mtp_layer = blob.layer >= place.n_layers;
  place.first_moe_layer = static_cast<int>(config.first_k_dense_replace);
  place.dense_model = !config.is_mla();
  place.small_model = place.dense_model && dense_parameters(config) <= small_model_parameters;
  place.source_is_bf16 = source_is_bf16;
  return quant::choose_format(recipe, place);
}

}  // namespace r1::rt
