#include "runtime/model_file/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "runtime/base/try.h"
#include "runtime/io/json.h"
#include "runtime/model_file/layout.h"

namespace r1::rt {
namespace {

// Bounds that no model of the family comes near. They keep every product of two below 2^62, and the list of the model's
// tensors in memory.
constexpr std::int64_t max_vocab = 1 << 24, max_width = 1 << 20, max_layers = 1 << 12, max_heads = 1 << 14,
                       max_experts = 1 << 14, max_positions = 1 << 28;
constexpr std::uint64_t max_heads_width = 1 << 24;  // of all heads of a layer
constexpr std::uint64_t max_tensors = 1 << 18;      // experts, or heads, of all layers

constexpr std::array architectures = {"deepseek_v3", "qwen2", "qwen3", "llama"};

Result<Architecture> read_architecture(const JsonObject& json) {
  R1_TRY(const std::string name, json.string("model_type"));
  for (std::size_t i = 0; i < architectures.size(); ++i) {
    if (name == architectures[i]) return static_cast<Architecture>(i);
  }
  return Error{ErrorCode::unsupported,
               fmt::format("model_type: {} is not supported; r1rt runs deepseek_v3, qwen2, qwen3 and llama", name),
               json.where()};
}

Result<std::uint32_t> read_size(const JsonObject& json, const char* key, std::int64_t most,
                                std::optional<std::int64_t> otherwise = {}, std::int64_t least = 1) {
  R1_TRY(const std::int64_t value, json.integer(key, least, most, otherwise));
  return static_cast<std::uint32_t>(value);
}

// A key that may only have the value r1rt implements.
Result<void> expect_string(const JsonObject& json, const char* key, const std::string& supported) {
  R1_TRY(const std::string value, json.string(key, supported));
  if (value == supported) return {};
  return Error{ErrorCode::unsupported, fmt::format("{}: {} is not supported, only {}", key, value, supported),
               json.where()};
}

Result<void> expect_false(const JsonObject& json, const char* key) {
  R1_TRY(const bool value, json.boolean(key, false));
  if (!value) return {};
  return Error{ErrorCode::unsupported, fmt::format("{}: true is not supported", key), json.where()};
}

// Checkpoints saved by transformers 5 keep rope_theta and the scaling together in rope_parameters.
Result<RopeConfig> read_rope(const JsonObject& json, const ModelConfig& c) {
  RopeConfig rope;
  const char* key = json.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  R1_TRY(rope.theta, json.number("rope_theta", 1.0, 1e12, 10000.0));
  if (!json.has(key)) return rope;
  R1_TRY(const JsonObject scaling, json.object(key));
  R1_TRY(rope.theta, scaling.number("rope_theta", 1.0, 1e12, rope.theta));
  R1_TRY(const std::string type, scaling.string(scaling.has("rope_type") ? "rope_type" : "type", "default"));
  if (type == "default") return rope;
  if (type != "yarn" && type != "llama3") {
    return Error{ErrorCode::unsupported, fmt::format("type: {} is not supported, only yarn and llama3", type),
                 scaling.where()};
  }
  R1_TRY(rope.factor, scaling.number("factor", 1.0, 1e6));
  if (type == "llama3") {
    rope.scaling = RopeScaling::llama3;
    R1_TRY(rope.original_max_position_embeddings,
           read_size(scaling, "original_max_position_embeddings", max_positions));
    R1_TRY(rope.low_freq_factor, scaling.number("low_freq_factor", 1e-6, 1e6, 1.0));
    R1_TRY(rope.high_freq_factor, scaling.number("high_freq_factor", 1e-6, 1e6, 4.0));
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      return scaling.error("high_freq_factor", "must be greater than low_freq_factor");
    }
    return rope;
  }
  rope.scaling = RopeScaling::yarn;
  R1_TRY(rope.original_max_position_embeddings,
         read_size(scaling, "original_max_position_embeddings", max_positions, c.max_position_embeddings));
  R1_TRY(rope.beta_fast, scaling.number("beta_fast", 1e-3, 1e6, 32.0));
  R1_TRY(rope.beta_slow, scaling.number("beta_slow", 1e-3, 1e6, 1.0));
  if (rope.beta_fast < rope.beta_slow) return scaling.error("beta_fast", "must not be less than beta_slow");
  if (c.is_mla()) {
    R1_TRY(rope.mscale, scaling.number("mscale", 0.0, 1e3, 1.0));
    R1_TRY(rope.mscale_all_dim, scaling.number("mscale_all_dim", 0.0, 1e3, 0.0));
  } else {
    R1_TRY(rope.attn_factor, scaling.number("attn_factor", 1e-6, 1e6, 1.0));
  }
  // What would change the numbers and no checkpoint of these architectures has.
  for (const char* unknown : {"attention_factor", c.is_mla() ? "attn_factor" : "mscale"}) {
    if (scaling.has(unknown)) {
      return Error{ErrorCode::unsupported, fmt::format("{}: is not supported here", unknown), scaling.where()};
    }
  }
  return rope;
}

Result<void> read_mla_and_moe(const JsonObject& json, ModelConfig& c) {
  R1_CHECK(expect_string(json, "scoring_func", "sigmoid"));
  R1_CHECK(expect_string(json, "topk_method", "noaux_tc"));
  R1_CHECK(expect_false(json, "attention_bias"));
  R1_TRY(const std::uint32_t moe_layer_freq, read_size(json, "moe_layer_freq", max_layers, 1));
  if (moe_layer_freq != 1) return json.error("moe_layer_freq", "only 1 is supported");
  R1_TRY(c.q_lora_rank, read_size(json, "q_lora_rank", max_width, 0));
  R1_TRY(c.kv_lora_rank, read_size(json, "kv_lora_rank", max_width));
  R1_TRY(c.qk_nope_head_dim, read_size(json, "qk_nope_head_dim", max_width));
  R1_TRY(c.qk_rope_head_dim, read_size(json, "qk_rope_head_dim", max_width));
  R1_TRY(c.v_head_dim, read_size(json, "v_head_dim", max_width));
  if (json.has("num_key_value_heads")) {  // says nothing in multi-head latent attention, but all have it alike
    R1_TRY(const std::uint32_t kv_heads, read_size(json, "num_key_value_heads", max_heads));
    if (kv_heads != c.num_attention_heads) return json.error("num_key_value_heads", "must equal num_attention_heads");
  }
  if (c.qk_rope_head_dim % 2 != 0) return json.error("qk_rope_head_dim", "must be even");
  // Where they are absent: DeepseekV3Config's defaults.
  R1_TRY(c.n_routed_experts, read_size(json, "n_routed_experts", max_experts, 256, 0));
  if (c.n_routed_experts > 0) {
    R1_TRY(c.n_shared_experts, read_size(json, "n_shared_experts", 64, 1, 0));
    R1_TRY(c.num_experts_per_tok, read_size(json, "num_experts_per_tok", 256, 8));
    R1_TRY(c.moe_intermediate_size, read_size(json, "moe_intermediate_size", max_width));
    R1_TRY(c.first_k_dense_replace, read_size(json, "first_k_dense_replace", max_layers, 3, 0));
    R1_TRY(c.n_group, read_size(json, "n_group", max_experts, 8));
    R1_TRY(c.topk_group, read_size(json, "topk_group", max_experts, 4));
    R1_TRY(c.norm_topk_prob, json.boolean("norm_topk_prob", true));
    R1_TRY(const double factor, json.number("routed_scaling_factor", -1e6, 1e6, 2.5));
    c.routed_scaling_factor = static_cast<float>(factor);
    if (c.first_k_dense_replace > c.num_hidden_layers) {
      return json.error("first_k_dense_replace", "is more than num_hidden_layers");
    }
    if (c.n_routed_experts % c.n_group != 0) return json.error("n_group", "must divide n_routed_experts");
    if (c.topk_group > c.n_group) return json.error("topk_group", "is more than n_group");
    const std::uint32_t experts_per_group = c.n_routed_experts / c.n_group;
    if (c.n_group > 1 && experts_per_group < 2) return json.error("n_group", "leaves fewer than two experts a group");
    if (c.num_experts_per_tok > c.topk_group * experts_per_group) {
      return json.error("num_experts_per_tok", fmt::format("is more than the {} experts of the chosen groups",
                                                           c.topk_group * experts_per_group));
    }
    if (std::uint64_t{c.n_shared_experts} * c.moe_intermediate_size > max_width) {
      return json.error("n_shared_experts", "times moe_intermediate_size is too large");
    }
    if (std::uint64_t{c.n_routed_experts} * c.num_hidden_layers > max_tensors) {
      return json.error("n_routed_experts", fmt::format("times num_hidden_layers is more than {}", max_tensors));
    }
  }
  R1_TRY(c.num_nextn_predict_layers, read_size(json, "num_nextn_predict_layers", 1, 0, 0));
  return {};
}

Result<void> read_grouped_query(const JsonObject& json, ModelConfig& c) {
  R1_TRY(c.num_key_value_heads, read_size(json, "num_key_value_heads", max_heads, c.num_attention_heads));
  if (c.num_attention_heads % c.num_key_value_heads != 0) {
    return json.error("num_key_value_heads", "must divide num_attention_heads");
  }
  if (!json.has("head_dim") && c.hidden_size % c.num_attention_heads != 0) {
    return json.error("num_attention_heads", "must divide hidden_size where head_dim is absent");
  }
  // Qwen3Config's head_dim defaults to 128, the others' to hidden_size / num_attention_heads.
  const std::int64_t default_head_dim =
      c.architecture == Architecture::qwen3 ? 128 : c.hidden_size / c.num_attention_heads;
  R1_TRY(c.head_dim, read_size(json, "head_dim", max_width, std::max<std::int64_t>(default_head_dim, 1)));
  if (c.head_dim % 2 != 0) return json.error("head_dim", "must be even");
  R1_CHECK(expect_false(json, "use_sliding_window"));
  R1_CHECK(expect_false(json, "use_mrope"));
  R1_CHECK(expect_false(json, "mlp_bias"));
  c.attention_bias = c.architecture == Architecture::qwen2;
  c.qk_norm = c.architecture == Architecture::qwen3;
  if (c.architecture != Architecture::qwen2) R1_CHECK(expect_false(json, "attention_bias"));
  return {};
}

Result<void> read_quantization(const JsonObject& json, ModelConfig& c) {
  if (!json.has("quantization_config")) return {};
  R1_TRY(const JsonObject quantization, json.object("quantization_config"));
  R1_TRY(const std::string method, quantization.string("quant_method"));
  if (method == "r1") {
    R1_TRY(const std::int64_t version, quantization.integer("format_version", 1, 1 << 20));
    if (version > format_version) {
      return Error{
          ErrorCode::unsupported,
          fmt::format("format_version: {} is newer than the {} this r1rt reads; update r1rt", version, format_version),
          quantization.where()};
    }
    c.r1_format_version = static_cast<int>(version);
    R1_TRY(c.r1_recipe, quantization.string("recipe", ""));
    return {};
  }
  if (method != "fp8") {
    return Error{ErrorCode::unsupported, fmt::format("quant_method: {} is not supported, only fp8 with blocks", method),
                 quantization.where()};
  }
  R1_CHECK(expect_string(quantization, "fmt", "e4m3"));
  const Json* block = quantization.find("weight_block_size");
  if (block == nullptr || !block->is_array() || block->size() != 2) {
    return quantization.error("weight_block_size", "must be two integers of 1 … 65536");
  }
  for (const Json& side : *block) {
    if (!side.is_number_unsigned() || side.get<std::uint64_t>() < 1 || side.get<std::uint64_t>() > 1 << 16) {
      return quantization.error("weight_block_size", "must be two integers of 1 … 65536");
    }
  }
  c.fp8_block_rows = (*block)[0].get<std::uint32_t>();
  c.fp8_block_columns = (*block)[1].get<std::uint32_t>();
  return {};
}

Result<void> read_special_tokens(const JsonObject& json, ModelConfig& c) {
  const std::int64_t last = static_cast<std::int64_t>(c.vocab_size) - 1;
  R1_TRY(const std::int64_t bos, json.integer("bos_token_id", -1, last, -1));
  c.bos_token_id = static_cast<std::int32_t>(bos);
  const Json* eos = json.find("eos_token_id");
  if (eos == nullptr) return {};
  const Json list = eos->is_array() ? *eos : Json::array({*eos});
  for (const Json& id : list) {
    if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() > last) {
      return json.error("eos_token_id", fmt::format("must be one or more ids of 0 … {}", last));
    }
    c.eos_token_ids.push_back(id.get<std::int32_t>());
  }
  return {};
}

}  // namespace

const char* architecture_name(Architecture architecture) {
  return architectures[static_cast<std::size_t>(architecture)];
}

Result<ModelConfig> parse_config(std::string_view text, const std::string& where) {
  R1_TRY(const Json document, parse_json(text, where));
  if (!document.is_object()) return Error{ErrorCode::corrupt, "is not a JSON object", where};
  const JsonObject json(document, where);
  ModelConfig c;
  R1_CHECK(read_quantization(json, c));  // first: a newer format may have changed all the rest
  R1_TRY(c.architecture, read_architecture(json));
  R1_TRY(c.vocab_size, read_size(json, "vocab_size", max_vocab));
  R1_TRY(c.hidden_size, read_size(json, "hidden_size", max_width));
  R1_TRY(c.intermediate_size, read_size(json, "intermediate_size", max_width));
  R1_TRY(c.num_hidden_layers, read_size(json, "num_hidden_layers", max_layers));
  R1_TRY(c.num_attention_heads, read_size(json, "num_attention_heads", max_heads));
  R1_TRY(c.max_position_embeddings, read_size(json, "max_position_embeddings", max_positions));
  R1_TRY(const double eps, json.number("rms_norm_eps", 0.0, 1.0, 1e-6));
  c.rms_norm_eps = static_cast<float>(eps);
  R1_TRY(c.tie_word_embeddings, json.boolean("tie_word_embeddings", false));
  R1_CHECK(expect_string(json, "hidden_act", "silu"));
  R1_TRY(c.rope, read_rope(json, c));
  if (c.is_mla()) {
    c.num_key_value_heads = c.num_attention_heads;
    R1_CHECK(read_mla_and_moe(json, c));
  } else {
    R1_CHECK(read_grouped_query(json, c));
  }
  const std::uint64_t head_width =
      c.is_mla() ? std::max<std::uint64_t>(c.qk_head_dim(), c.qk_nope_head_dim + std::uint64_t{c.v_head_dim})
                 : c.head_dim;
  if (head_width * c.num_attention_heads > max_heads_width)
    return json.error("num_attention_heads", "times the heads' width is too large");
  R1_CHECK(read_special_tokens(json, c));
  return c;
}

}  // namespace r1::rt
