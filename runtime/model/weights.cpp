#include "runtime/model/weights.h"

#include <fmt/format.h>

#include <string>

namespace r1::rt {
namespace {

// Looks blobs up by name and remembers the first one that is missing, so that the structures below read as lists.
class Resolver {
 public:
  explicit Resolver(const ModelFile& file) : file_(file) {}

  std::span<const Matrix> parts(const std::string& name, std::size_t n) {
    const BlobInfo* blob = file_.find(name);
    if (blob == nullptr || blob->parts.size() != n) {
      if (missing_.empty()) missing_ = name;
      return {};
    }
    return blob->parts;
  }
  Matrix matrix(const std::string& name) {
    const auto found = parts(name, 1);
    return found.empty() ? Matrix{} : found[0];
  }
  const float* vector(const std::string& name) {
    const Matrix found = matrix(name);
    if (found.blob != nullptr && found.format != quant::Format::f32 && missing_.empty()) missing_ = name;
    return reinterpret_cast<const float*>(found.blob);
  }
  Mlp mlp(const std::string& prefix) {
    return {matrix(prefix + "gate_proj.weight"), matrix(prefix + "up_proj.weight"),
            matrix(prefix + "down_proj.weight")};
  }

  [[nodiscard]] const std::string& missing() const { return missing_; }

 private:
  const ModelFile& file_;
  std::string missing_;
};

Mla resolve_mla(Resolver& r, const ModelConfig& config, const std::string& prefix) {
  Mla mla;
  if (config.q_lora_rank > 0) {
    mla.q_a_proj = r.matrix(prefix + "q_a_proj.weight");
    mla.q_a_layernorm = r.vector(prefix + "q_a_layernorm.weight");
    mla.q_b_proj = r.matrix(prefix + "q_b_proj.weight");
  } else {
    mla.q_proj = r.matrix(prefix + "q_proj.weight");
  }
  mla.kv_a_proj = r.matrix(prefix + "kv_a_proj_with_mqa.weight");
  mla.kv_a_layernorm = r.vector(prefix + "kv_a_layernorm.weight");
  mla.k_b = r.parts(prefix + "k_b_proj.weight", config.num_attention_heads);
  mla.v_b = r.parts(prefix + "v_b_proj.weight", config.num_attention_heads);
  mla.o_proj = r.matrix(prefix + "o_proj.weight");
  return mla;
}

Gqa resolve_gqa(Resolver& r, const ModelConfig& config, const std::string& prefix) {
  Gqa gqa;
  gqa.q_proj = r.matrix(prefix + "q_proj.weight");
  gqa.k_proj = r.matrix(prefix + "k_proj.weight");
  gqa.v_proj = r.matrix(prefix + "v_proj.weight");
  gqa.o_proj = r.matrix(prefix + "o_proj.weight");
  if (config.attention_bias) {
    gqa.q_bias = r.vector(prefix + "q_proj.bias");
    gqa.k_bias = r.vector(prefix + "k_proj.bias");
    gqa.v_bias = r.vector(prefix + "v_proj.bias");
  }
  if (config.qk_norm) {
    gqa.q_norm = r.vector(prefix + "q_norm.weight");
    gqa.k_norm = r.vector(prefix + "k_norm.weight");
  }
  return gqa;
}

Moe resolve_moe(Resolver& r, const ModelConfig& config, const std::string& prefix) {
  Moe moe;
  moe.gate = r.matrix(prefix + "gate.weight");
  moe.e_score_correction_bias = r.vector(prefix + "gate.e_score_correction_bias");
  if (config.n_shared_experts > 0) moe.shared_experts = r.mlp(prefix + "shared_experts.");
  return moe;
}

Layer resolve_layer(Resolver& r, const ModelConfig& config, std::uint32_t index) {
  const std::string prefix = fmt::format("model.layers.{}.", index);
  Layer layer;
  layer.index = index;
  layer.input_layernorm = r.vector(prefix + "input_layernorm.weight");
  layer.post_attention_layernorm = r.vector(prefix + "post_attention_layernorm.weight");
  if (config.is_mla()) {
    layer.mla = resolve_mla(r, config, prefix + "self_attn.");
  } else {
    layer.gqa = resolve_gqa(r, config, prefix + "self_attn.");
  }
  if (config.is_moe_layer(index)) {
    layer.moe = resolve_moe(r, config, prefix + "mlp.");
  } else {
    layer.mlp = r.mlp(prefix + "mlp.");
  }
  return layer;
}

MtpLayer resolve_mtp_layer(Resolver& r, const ModelConfig& config, std::uint32_t index) {
  const std::string prefix = fmt::format("model.layers.{}.", index);
  MtpLayer mtp;
  mtp.enorm = r.vector(prefix + "enorm.weight");
  mtp.hnorm = r.vector(prefix + "hnorm.weight");
  mtp.shared_head_norm = r.vector(prefix + "shared_head.norm.weight");
  mtp.eh_proj = r.matrix(prefix + "eh_proj.weight");
  mtp.layer = resolve_layer(r, config, index);
  return mtp;
}

}  // namespace

Result<Weights> resolve_weights(const ModelFile& file) {
  const ModelConfig& config = file.config();
  Resolver r(file);
  Weights weights;
  weights.embed_tokens = r.matrix("model.embed_tokens.weight");
  weights.norm = r.vector("model.norm.weight");
  weights.lm_head = config.tie_word_embeddings ? weights.embed_tokens : r.matrix("lm_head.weight");
  for (std::uint32_t i = 0; i < config.num_hidden_layers; ++i) weights.layers.push_back(resolve_layer(r, config, i));
  for (std::uint32_t i = 0; i < config.num_nextn_predict_layers; ++i) {
    weights.mtp_layers.push_back(resolve_mtp_layer(r, config, config.num_hidden_layers + i));
  }
  if (!r.missing().empty()) {
    return Error{ErrorCode::corrupt, fmt::format("the tensor {} is missing or of another format", r.missing()),
                 file.directory()};
  }
  return weights;
}

}  // namespace r1::rt
