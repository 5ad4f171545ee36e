// config.json: the real ones, and values that are absent, negative, huge, of another type or at odds with each other.
#include "runtime/model_file/config.h"

#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>

using namespace r1::rt;

namespace {

nlohmann::json real(const std::string& path) {
  return nlohmann::json::parse(std::ifstream(std::string(R1_FIXTURES) + path));
}

ModelConfig parse(const nlohmann::json& json) {
  auto config = parse_config(json.dump(), "config.json");
  REQUIRE_MESSAGE(config.ok(), (config.ok() ? "" : config.error().text()));
  return *config;
}

void check_refused(nlohmann::json json, const char* key, const nlohmann::json& value) {
  CAPTURE(key);
  CAPTURE(value.dump());
  if (value.is_discarded()) {
    json.erase(key);
  } else {
    json[key] = value;
  }
  const auto config = parse_config(json.dump(), "config.json");
  REQUIRE_FALSE(config.ok());
  CAPTURE(config.error().text());
  CHECK(config.error().text().rfind("config.json: ", 0) == 0);
  CHECK(config.error().text().find(key) != std::string::npos);
}

}  // namespace

TEST_CASE("the real configs") {
  const ModelConfig r1 = parse(real("/tokenizers/DeepSeek-R1/config.json"));
  CHECK(r1.architecture == Architecture::deepseek_v3);
  CHECK((r1.hidden_size == 7168 && r1.num_hidden_layers == 61 && r1.n_routed_experts == 256 &&
         r1.num_experts_per_tok == 8));
  CHECK((r1.n_group == 8 && r1.topk_group == 4 && r1.first_k_dense_replace == 3 && r1.num_nextn_predict_layers == 1));
  CHECK((r1.kv_lora_rank == 512 && r1.q_lora_rank == 1536 && r1.qk_head_dim() == 192 && r1.v_head_dim == 128));
  CHECK((r1.fp8_block_rows == 128 && r1.rope.scaling == RopeScaling::yarn && r1.rope.factor == 40));
  const ModelConfig qwen = parse(real("/tokenizers/DeepSeek-R1-Distill-Qwen-1.5B/config.json"));
  CHECK((qwen.architecture == Architecture::qwen2 && qwen.attention_bias && qwen.head_dim == 128));
  const ModelConfig llama = parse(real("/tokenizers/DeepSeek-R1-Distill-Llama-70B/config.json"));
  CHECK((llama.rope.scaling == RopeScaling::llama3 && llama.eos_token_ids.size() == 3));
  const ModelConfig qwen3 = parse(real("/tokenizers/DeepSeek-R1-0528-Qwen3-8B/config.json"));
  CHECK((qwen3.architecture == Architecture::qwen3 && qwen3.qk_norm && qwen3.rope.attn_factor < 1));
}

TEST_CASE("absent and mistyped and huge values are named") {
  const auto json = real("/models/deepseek-v3-fp8/config.json");
  const nlohmann::json absent(nlohmann::json::value_t::discarded);
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "moe_intermediate_size",
                          "max_position_embeddings", "model_type"}) {
    check_refused(json, key, absent);
    for (const auto& bad : std::vector<nlohmann::json>{-1, 0, 1e30, 18446744073709551615ull, "x", 1.5, true,
                                                       nlohmann::json::array(), nlohmann::json::object()}) {
      check_refused(json, key, bad);
    }
  }
  check_refused(json, "rms_norm_eps", "small");
  check_refused(json, "rope_theta", -5);
  check_refused(json, "tie_word_embeddings", 3);
  check_refused(json, "eos_token_id", 515);
  check_refused(json, "hidden_act", "gelu");
  check_refused(json, "scoring_func", "softmax");
  check_refused(json, "topk_method", "greedy");
  check_refused(json, "model_type", "mamba");
}

TEST_CASE("values at odds with each other are named") {
  const auto json = real("/models/deepseek-v3-fp8/config.json");
  check_refused(json, "n_group", 5);
  check_refused(json, "topk_group", 5);
  check_refused(json, "num_experts_per_tok", 9);
  check_refused(json, "first_k_dense_replace", 5);
  check_refused(json, "qk_rope_head_dim", 33);
  const auto qwen = real("/models/qwen2/config.json");
  check_refused(qwen, "num_key_value_heads", 5);
  check_refused(qwen, "use_sliding_window", true);
  auto scaled = real("/models/llama/config.json");
  scaled["rope_scaling"]["rope_type"] = "dynamic";
  CHECK_FALSE(parse_config(scaled.dump(), "x").ok());
  scaled["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", 8}};
  CHECK(parse_config(scaled.dump(), "x").error().text().find("original_max_position_embeddings") != std::string::npos);
}

TEST_CASE("text that is no config") {
  for (const char* text : {"", "{", "[]", "null", "\"x\"", "{\"model_type\":\"llama\",\"model_type\":\"qwen2\"}"})
    CHECK_FALSE(parse_config(text, "x").ok());
  CHECK_FALSE(parse_config(std::string(1000, '['), "x").ok());
}
