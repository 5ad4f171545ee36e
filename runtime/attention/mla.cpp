// Names of the paper beside the checkpoint's: c^Q = q_a, c^KV = latent, k^R = the rope part of kv_a, q^C = q_nope, q^R
// = q_rope.
//
// Absorbed form: per head, q^C·k^C = q^C·(W^UK c^KV) = (W^UKᵀ q^C)·c^KV, so the cache holds c^KV and k^R only and is
// read as it is; what the softmax weighs are latents too, and W^UV turns their sum into the head's value.
#include "runtime/attention/mla.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "runtime/attention/attend.h"
#include "runtime/attention/prefill.h"
#include "runtime/model/layer.h"

namespace r1::rt {
namespace {

// c^KV and k^R of every token → its cache row [kv_lora_rank | qk_rope_head_dim].
void store_latents(const numa::Member& member, Pass& pass, const Mla& w, std::uint32_t kv_layer) {
  const ModelConfig& c = pass.config;
  const std::uint32_t width = c.kv_lora_rank + c.qk_rope_head_dim, pairs = c.qk_rope_head_dim / 2;
  const auto [begin, end] = member.share(pass.n_tokens());
  for (std::uint32_t token = begin; token < end; ++token) {
    const TokenSlot& slot = pass.slots[token];
    float* row = pass.scratch.kv_a.at(std::size_t{token} * width);
    pass.kernels.rms_norm(row, w.kv_a_layernorm, c.kv_lora_rank, c.rms_norm_eps, row);
    pass.kernels.rope_interleaved(row + c.kv_lora_rank, pass.scratch.cos.at(std::size_t{token} * pairs),
                                  pass.scratch.sin.at(std::size_t{token} * pairs), c.qk_rope_head_dim);
    slot.kv->store_k(pass.kernels, slot.row, kv_layer, 0, row);
  }
}

void multiply_tile(const Pass& pass, const Matrix& w, const simd::Activations& x, float* y, std::size_t ldy) {
  pass.kernels.gemv[static_cast<std::size_t>(w.format)](w, x, 0, x.n_tokens, 0, w.layout.n_panels, y, ldy);
}

// The input of one head's v_b, for the observer.
void keep_latents(const Pass& pass, const Tile& tile, std::uint32_t head, const simd::Activations& rows) {
  const std::size_t latent = pass.config.kv_lora_rank, n_heads = pass.config.num_attention_heads;
  for (std::uint32_t t = 0; t < tile.n_tokens; ++t) {
    std::copy_n(simd::ActivationBuffer::x_row(rows, t), latent,
                pass.observer->weighted_latents() + ((tile.first_token + t) * n_heads + head) * latent);
  }
}

// The inputs of k_b and v_b.
void show_heads(const numa::Member& member, const Pass& pass, std::uint32_t layer) {
  const ModelConfig& c = pass.config;
  const std::size_t n_heads = c.num_attention_heads, latent = c.kv_lora_rank;
  for (std::uint32_t head = 0; head < c.num_attention_heads; ++head) {
    pass.observer->see(member, {InputRole::k_b, static_cast<int>(layer), head},
                       pass.scratch.q.at(std::size_t{head} * c.qk_head_dim()), n_heads * c.qk_head_dim(),
                       pass.n_tokens());
    pass.observer->see(member, {InputRole::v_b, static_cast<int>(layer), head},
                       pass.observer->weighted_latents() + head * latent, n_heads * latent, pass.n_tokens());
  }
}

}  // namespace

void mla(const numa::Member& member, Pass& pass, const Layer& layer, std::uint32_t kv_layer) {
  const ModelConfig& c = pass.config;
  const Mla& w = *layer.mla;
  Scratch& s = pass.scratch;
  MemberScratch& own = pass.own(member);
  const std::uint32_t n_tokens = pass.n_tokens();
  const std::uint32_t nope = c.qk_nope_head_dim, rope = c.qk_rope_head_dim, latent = c.kv_lora_rank;
  const std::size_t ld_heads_q = std::size_t{c.num_attention_heads} * c.qk_head_dim();
  const std::size_t ld_heads_v = std::size_t{c.num_attention_heads} * c.v_head_dim;

  // c^Q = W^DQ h and [c^KV | k^R] = [W^DKV | W^KR] h read the same input in one pass; q = W^UQ RMSNorm(c^Q) follows.
  const simd::Activations h = normalized(member, pass, layer.index, s.hidden_input, s.residual.data(), c.hidden_size,
                                         layer.input_layernorm, n_tokens, c.hidden_size);
  show_input(member, pass, InputRole::attention, layer.index, h, 0, n_tokens);
  const bool low_rank_q = c.q_lora_rank > 0;
  const std::array<Product, 2> down = {low_rank_q ? Product{&w.q_a_proj, &h, 0, n_tokens, s.q_a.data(), c.q_lora_rank}
                                                  : Product{&w.q_proj, &h, 0, n_tokens, s.q.data(), ld_heads_q},
                                       Product{&w.kv_a_proj, &h, 0, n_tokens, s.kv_a.data(), latent + rope}};
  multiply(member, pass.kernels, down, pass.own(member).tile.data());
  member.barrier();
  store_latents(member, pass, w, kv_layer);
  if (low_rank_q) {
    const simd::Activations c_q = normalized(member, pass, layer.index, s.q_a_input, s.q_a.data(), c.q_lora_rank,
                                             w.q_a_layernorm, n_tokens, c.q_lora_rank);
    show_input(member, pass, InputRole::q_b, layer.index, c_q, 0, n_tokens);
    const std::array<Product, 1> up = {Product{&w.q_b_proj, &c_q, 0, n_tokens, s.q.data(), ld_heads_q}};
    multiply(member, pass.kernels, up, pass.own(member).tile.data());
  }
  member.barrier();
  pass.mark(member, Phase::attention_projections);

  if (pass.observer == nullptr && uses_prefill(pass)) {  // it has no weighted latents to show
    prefill_mla(member, pass, w, layer.index, kv_layer);
    member.barrier();
    pass.mark(member, Phase::attention);
    project_heads(member, pass, layer, w.o_proj);
    return;
  }

  // [W^UKᵀ q^C | RoPE(q^R)] per head, scaled for the softmax.
  const auto query = [&](const Tile& tile, const Heads& heads, float* q, std::size_t ldq) {
    const simd::Activations rows = own.head_rows.view(tile.n_tokens, nope);
    for (std::uint32_t head = 0; head < heads.n; ++head) {
      float* q_head = q + std::size_t{head} * (latent + rope);
      for (std::uint32_t t = 0; t < tile.n_tokens; ++t) {
        const std::uint32_t token = tile.first_token + t;
        const float* projected = s.q.at(token * ld_heads_q + std::size_t{heads.first + head} * c.qk_head_dim());
        float* q_nope = simd::ActivationBuffer::x_row(rows, t);
        float* q_rope = q_head + t * ldq + latent;
        const float scale = pass.rope.softmax_scale();
        for (std::uint32_t i = 0; i < nope; ++i) q_nope[i] = projected[i] * scale;
        for (std::uint32_t i = 0; i < rope; ++i) q_rope[i] = projected[nope + i] * scale;
        pass.kernels.rope_interleaved(q_rope, s.cos.at(std::size_t{token} * (rope / 2)),
                                      s.sin.at(std::size_t{token} * (rope / 2)), rope);
        if (!pass.kernels.quantize_row(rows, t)) pass.report_not_finite(layer.index);
      }
      multiply_tile(pass, w.k_b[heads.first + head], rows, q_head, ldq);
    }
  };
  // Per head, W^UV times the weighted latents.
  const auto output = [&](const Tile& tile, const Heads& heads, const float* out, std::size_t ldo) {
    const simd::Activations rows = own.head_rows.view(tile.n_tokens, latent);
    for (std::uint32_t head = 0; head < heads.n; ++head) {
      for (std::uint32_t t = 0; t < tile.n_tokens; ++t) {
        std::memcpy(simd::ActivationBuffer::x_row(rows, t), out + t * ldo + std::size_t{head} * latent,
                    latent * sizeof(float));
        if (!pass.kernels.quantize_row(rows, t)) pass.report_not_finite(layer.index);
      }
      if (pass.observer != nullptr) keep_latents(pass, tile, heads.first + head, rows);
      multiply_tile(pass, w.v_b[heads.first + head], rows,
                    s.heads.at(tile.first_token * ld_heads_v + std::size_t{heads.first + head} * c.v_head_dim),
                    ld_heads_v);
    }
  };
  attend(member, pass, kv_layer, {c.num_attention_heads, 1, latent + rope, latent}, query, output);
  member.barrier();
  pass.mark(member, Phase::attention);
  if (pass.observer != nullptr) show_heads(member, pass, layer.index);
  project_heads(member, pass, layer, w.o_proj);
}

}  // namespace r1::rt
