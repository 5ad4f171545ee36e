// config.json of the architectures r1rt runs, read once and checked: deepseek_v3, qwen2, qwen3, llama.
#pragma once

#include <r1/result.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace r1::rt {

enum class Architecture : std::uint8_t { deepseek_v3, qwen2, qwen3, llama };
[[nodiscard]] const char* architecture_name(Architecture architecture);  // as in model_type

enum class RopeScaling : std::uint8_t { none, yarn, llama3 };

struct RopeConfig {
  RopeScaling scaling = RopeScaling::none;
  double theta = 10000.0;
  double factor = 1.0;
  std::uint32_t original_max_position_embeddings = 0;
  double beta_fast = 32.0, beta_slow = 1.0;              // yarn
  double mscale = 1.0, mscale_all_dim = 0.0;             // yarn, deepseek_v3
  double attn_factor = 1.0;                              // yarn, qwen3: multiplies 0.1·ln(factor) + 1
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // llama3
};

// Keys keep the checkpoint's names; absent ones take the reference implementation's defaults.
struct ModelConfig {
  Architecture architecture = Architecture::deepseek_v3;
  std::uint32_t vocab_size = 0, hidden_size = 0, intermediate_size = 0;
  std::uint32_t num_hidden_layers = 0, num_attention_heads = 0, num_key_value_heads = 0;
  std::uint32_t head_dim = 0;  // qwen2, qwen3, llama
  std::uint32_t max_position_embeddings = 0;
  float rms_norm_eps = 1e-6f;
  bool tie_word_embeddings = false;
  bool attention_bias = false;  // q, k, v biases (always in qwen2); o stays without, as in the reference of qwen2
  bool qk_norm = false;         // qwen3
  RopeConfig rope;

  // deepseek_v3
  std::uint32_t q_lora_rank = 0;  // 0: no low-rank query (V2-Lite style), q_proj instead
  std::uint32_t kv_lora_rank = 0, qk_nope_head_dim = 0, qk_rope_head_dim = 0, v_head_dim = 0;
  std::uint32_t n_routed_experts = 0, n_shared_experts = 0, num_experts_per_tok = 0, moe_intermediate_size = 0;
  std::uint32_t first_k_dense_replace = 0, n_group = 1, topk_group = 1;
  bool norm_topk_prob = true;
  float routed_scaling_factor = 1.0f;
  std::uint32_t num_nextn_predict_layers = 0;

  // The checkpoint's own quantization (0: none), and ours.
  std::uint32_t fp8_block_rows = 0, fp8_block_columns = 0;
  int r1_format_version = 0;  // quantization_config.format_version of a model directory; 0 in a checkpoint
  std::string r1_recipe;

  std::vector<std::int32_t> eos_token_ids;
  std::int32_t bos_token_id = -1;

  [[nodiscard]] bool is_moe() const { return n_routed_experts > 0; }
  [[nodiscard]] bool is_mla() const { return architecture == Architecture::deepseek_v3; }
  [[nodiscard]] bool is_moe_layer(std::uint32_t layer) const { return is_moe() && layer >= first_k_dense_replace; }
  [[nodiscard]] std::uint32_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
};

// Every value is range-checked and the values among themselves; the error names the key. `where` names the file.
[[nodiscard]] Result<ModelConfig> parse_config(std::string_view json, const std::string& where);

}  // namespace r1::rt
