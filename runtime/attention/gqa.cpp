#include "runtime/attention/gqa.h"

#include <array>
#include <cstring>

#include "runtime/attention/attend.h"
#include "runtime/attention/prefill.h"
#include "runtime/model/layer.h"

namespace r1::rt {
namespace {

// Bias, norm and rotation of one head of one token, in place. bias: of this head, or null.
void finish_head(const Pass& pass, float* head, const float* bias, const float* norm, const float* cos,
                 const float* sin) {
  const std::uint32_t d = pass.config.head_dim;
  if (bias != nullptr) pass.kernels.axpy(1.0f, bias, d, head);
  if (norm != nullptr) pass.kernels.rms_norm(head, norm, d, pass.config.rms_norm_eps, head);
  if (cos != nullptr) pass.kernels.rope_halves(head, cos, sin, d);
}

// K and V of every token → the cache.
void store_keys_and_values(const numa::Member& member, Pass& pass, const Gqa& w, std::uint32_t kv_layer) {
  const ModelConfig& c = pass.config;
  Scratch& s = pass.scratch;
  const std::uint32_t d = c.head_dim, n_kv_heads = c.num_key_value_heads;
  const auto [begin, end] = member.share(pass.n_tokens() * n_kv_heads);
  for (std::uint32_t i = begin; i < end; ++i) {
    const std::uint32_t token = i / n_kv_heads, head = i % n_kv_heads;
    const TokenSlot& slot = pass.slots[token];
    const std::size_t pairs = std::size_t{token} * (d / 2);
    float* k = s.k.at(std::size_t{i} * d);
    float* v = s.v.at(std::size_t{i} * d);
    finish_head(pass, k, w.k_bias != nullptr ? w.k_bias + head * d : nullptr, w.k_norm, s.cos.at(pairs),
                s.sin.at(pairs));
    finish_head(pass, v, w.v_bias != nullptr ? w.v_bias + head * d : nullptr, nullptr, nullptr, nullptr);
    slot.kv->store_k(pass.kernels, slot.row, kv_layer, head, k);
    slot.kv->store_v(pass.kernels, slot.row, kv_layer, head, v);
  }
}

}  // namespace

void gqa(const numa::Member& member, Pass& pass, const Layer& layer, std::uint32_t kv_layer) {
  const ModelConfig& c = pass.config;
  const Gqa& w = *layer.gqa;
  Scratch& s = pass.scratch;
  const std::uint32_t n_tokens = pass.n_tokens(), d = c.head_dim;
  const std::size_t ld_q = std::size_t{c.num_attention_heads} * d, ld_kv = std::size_t{c.num_key_value_heads} * d;

  const simd::Activations h = normalized(member, pass, layer.index, s.hidden_input, s.residual.data(), c.hidden_size,
                                         layer.input_layernorm, n_tokens, c.hidden_size);
  show_input(member, pass, InputRole::attention, layer.index, h, 0, n_tokens);
  const std::array<Product, 3> qkv = {Product{&w.q_proj, &h, 0, n_tokens, s.q.data(), ld_q},
                                      Product{&w.k_proj, &h, 0, n_tokens, s.k.data(), ld_kv},
                                      Product{&w.v_proj, &h, 0, n_tokens, s.v.data(), ld_kv}};
  multiply(member, pass.kernels, qkv, pass.own(member).tile.data());
  member.barrier();
  store_keys_and_values(member, pass, w, kv_layer);
  if (uses_prefill(pass)) {
    const auto [begin, end] = member.share(n_tokens * c.num_attention_heads);
    for (std::uint32_t i = begin; i < end; ++i) {
      const std::uint32_t head = i % c.num_attention_heads;
      const std::size_t pairs = std::size_t{i / c.num_attention_heads} * (d / 2);
      finish_head(pass, s.q.at(std::size_t{i} * d), w.q_bias != nullptr ? w.q_bias + head * d : nullptr, w.q_norm,
                  s.cos.at(pairs), s.sin.at(pairs));
    }
    member.barrier();
    pass.mark(member, Phase::attention_projections);
    prefill_gqa(member, pass, kv_layer);
    member.barrier();
    pass.mark(member, Phase::attention);
    project_heads(member, pass, layer, w.o_proj);
    return;
  }
  member.barrier();
  pass.mark(member, Phase::attention_projections);

  const auto query = [&](const Tile& tile, const Heads& heads, float* q, std::size_t ldq) {
    for (std::uint32_t t = 0; t < tile.n_tokens; ++t) {
      const std::uint32_t token = tile.first_token + t;
      const std::size_t pairs = std::size_t{token} * (d / 2);
      for (std::uint32_t head = heads.first; head < heads.first + heads.n; ++head) {
        float* q_head = q + t * ldq + std::size_t{head - heads.first} * d;
        std::memcpy(q_head, s.q.at(token * ld_q + std::size_t{head} * d), d * sizeof(float));
        finish_head(pass, q_head, w.q_bias != nullptr ? w.q_bias + head * d : nullptr, w.q_norm, s.cos.at(pairs),
                    s.sin.at(pairs));
        for (std::uint32_t i = 0; i < d; ++i) q_head[i] *= pass.rope.softmax_scale();
      }
    }
  };
  const auto output = [&](const Tile& tile, const Heads& heads, const float* out, std::size_t ldo) {
    for (std::uint32_t t = 0; t < tile.n_tokens; ++t) {
      std::memcpy(s.heads.at((tile.first_token + t) * ld_q + std::size_t{heads.first} * d), out + t * ldo,
                  std::size_t{heads.n} * d * sizeof(float));
    }
  };
  attend(member, pass, kv_layer, {c.num_attention_heads, c.num_key_value_heads, d, d}, query, output);
  member.barrier();
  pass.mark(member, Phase::attention);
  project_heads(member, pass, layer, w.o_proj);
}

}  // namespace r1::rt
