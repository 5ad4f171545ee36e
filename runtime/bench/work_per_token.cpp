#include "runtime/bench/work_per_token.h"

#include <algorithm>
#include <cmath>

#include "runtime/engine/session_impl.h"
#include "runtime/kv_cache/kv_cache.h"
#include "runtime/model/model_impl.h"

namespace r1::bench {
namespace {

const rt::ModelConfig& config_of(const Model& model) {
  return model.impl().file->config();
}

// Of one query token and one cached token, in all layers. Decode's absorbed form multiplies latents, prefill heads.
double attention_multiply_adds(const rt::ModelConfig& c, bool absorbed) {
  const double heads = c.num_attention_heads, layers = c.num_hidden_layers;
  if (!c.is_mla()) return layers * heads * 2.0 * c.head_dim;
  const double width =
      absorbed ? 2.0 * c.kv_lora_rank + c.qk_rope_head_dim : c.qk_head_dim() + double{1} * c.v_head_dim;
  return layers * heads * width;
}

// Parameters that multiply every token; the head does so for the last one only, the embedding for none.
double matrix_parameters(const Model& model, bool with_head) {
  const ModelInfo& info = model.info();
  const double embedding_row = info.hidden_size, head = double{1} * info.vocab_size * info.hidden_size;
  const bool tied = config_of(model).tie_word_embeddings;  // then the head is what the embedding's class counts
  const auto active = static_cast<double>(info.active_parameters);
  const double all = tied ? active : active - embedding_row;
  return with_head ? all : all - head;
}

}  // namespace

double decode_bytes(const Model& model, KvCacheType kv_type, double depth_tokens) {
  const rt::KvShape kv = rt::kv_shape(config_of(model), rt::kv_type_of(kv_type), false);
  return static_cast<double>(model.info().bytes_per_token) + depth_tokens * static_cast<double>(kv.bytes_per_token());
}

double decode_multiply_adds(const Model& model, double depth_tokens) {
  return matrix_parameters(model, true) + depth_tokens * attention_multiply_adds(config_of(model), true);
}

double prefill_bytes(const Model& model, std::uint32_t n_tokens, std::uint32_t batch_tokens) {
  const rt::ModelConfig& c = config_of(model);
  double routed = 0, rest = 0, head = 0;
  for (const TensorClassInfo& tensors : model.info().classes) {
    if (tensors.name == "MTP layer") continue;
    const bool is_head = tensors.name == (c.tie_word_embeddings ? "embedding" : "head");
    if (tensors.name == "embedding" && !is_head) continue;
    (is_head ? head : tensors.name.starts_with("routed") ? routed : rest) += static_cast<double>(tensors.bytes);
  }
  double bytes = head;  // for the last token
  for (std::uint32_t first = 0; first < n_tokens; first += batch_tokens) {
    const double n = std::min(batch_tokens, n_tokens - first);
    bytes += rest;
    if (c.is_moe()) bytes += routed * (1 - std::pow(1 - double{1} * c.num_experts_per_tok / c.n_routed_experts, n));
  }
  return bytes;
}

double prefill_multiply_adds(const Model& model, std::uint32_t n_tokens) {
  const double n = n_tokens, pairs = n * (n + 1) / 2;
  return (n - 1) * matrix_parameters(model, false) + matrix_parameters(model, true) +
         pairs * attention_multiply_adds(config_of(model), false);
}

}  // namespace r1::bench
