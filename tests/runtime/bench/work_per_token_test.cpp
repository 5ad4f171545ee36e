// Bytes and multiply-adds of a token, against sums over the shapes in config.json.
#include "runtime/bench/work_per_token.h"

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

using namespace r1;

TEST_CASE("the work of a token follows from the shapes") {
  ModelOptions options;
  options.path = R1_NANO_MODEL;
  options.load = LoadMode::map;
  const auto opened = Model::open(options);
  REQUIRE(opened);
  const Model& model = **opened;
  std::ifstream file(options.path + "/config.json");
  const auto c = nlohmann::json::parse(file);
  const auto of = [&](const char* key) { return c[key].get<double>(); };

  const double hidden = of("hidden_size"), heads = of("num_attention_heads"), latent = of("kv_lora_rank");
  const double rope = of("qk_rope_head_dim"), nope = of("qk_nope_head_dim"), v = of("v_head_dim");
  const double layers = of("num_hidden_layers"), dense_layers = of("first_k_dense_replace");
  const double attention = hidden * of("q_lora_rank") + of("q_lora_rank") * heads * (nope + rope) +
                           hidden * (latent + rope) + latent * heads * (nope + v) + heads * v * hidden;
  const double expert = 3 * hidden * of("moe_intermediate_size");
  const double moe = expert * (of("num_experts_per_tok") + of("n_shared_experts")) + hidden * of("n_routed_experts");
  const double matrices =
      layers * attention + dense_layers * 3 * hidden * of("intermediate_size") + (layers - dense_layers) * moe;
  const double head = of("vocab_size") * hidden;

  // Norms count as parameters in ModelInfo: a few thousand.
  const auto near = [&](double expected) { return doctest::Approx(expected).epsilon(2e-3); };
  CHECK(bench::decode_multiply_adds(model, 0) == near(matrices + head));
  CHECK(bench::decode_multiply_adds(model, 1000) - bench::decode_multiply_adds(model, 0) ==
        doctest::Approx(1000 * layers * heads * (2 * latent + rope)));
  CHECK(bench::prefill_multiply_adds(model, 1) == near(matrices + head + layers * heads * (nope + rope + v)));
  CHECK(bench::prefill_multiply_adds(model, 100) ==
        near(100 * matrices + head + 5050 * layers * heads * (nope + rope + v)));

  CHECK(bench::decode_bytes(model, KvCacheType::f16, 0) == static_cast<double>(model.info().bytes_per_token));
  CHECK(bench::decode_bytes(model, KvCacheType::f16, 10) - bench::decode_bytes(model, KvCacheType::f16, 0) ==
        10 * layers * (latent + rope) * 2);
  CHECK(bench::decode_bytes(model, KvCacheType::f32, 10) - bench::decode_bytes(model, KvCacheType::f32, 0) ==
        10 * layers * (latent + rope) * 4);
  // One token meets its experts; a long batch meets all, and all weights but the embedding are read once.
  CHECK(bench::prefill_bytes(model, 1, 64) ==
        doctest::Approx(static_cast<double>(model.info().bytes_per_token)).epsilon(2e-3));
  double all = 0;
  for (const TensorClassInfo& tensors : model.info().classes) {
    if (tensors.name != "embedding" && tensors.name != "MTP layer") all += static_cast<double>(tensors.bytes);
  }
  CHECK(bench::prefill_bytes(model, 4096, 4096) == doctest::Approx(all));
  CHECK(bench::prefill_bytes(model, 4096, 2048) > 1.5 * all);
}
