#include "runtime/attention/flash.h"

#include <algorithm>
#include <cmath>

namespace r1::rt {

namespace {

// Both products in integers. Each head's weights are those of the softmax times the values' scales, in steps of their
// own.
void attend_split_q8(const HeadGroup& group, const KvCache& kv, std::uint32_t n_rows, std::uint32_t split,
                     const float* q, std::size_t ldq, SplitScratch& scratch, const SoftmaxPart& part) {
  const simd::Kernels& kernels = *group.kernels;
  const simd::Q8KeyShape keys = kv.shape().q8_keys();
  const std::byte* k_page = kv.k_page(split, group.layer, group.kv_head);
  const std::size_t q_bytes = std::size_t{keys.quads()} * 4;
  for (std::uint32_t h = 0; h < group.n_heads; ++h) {
    simd::quantize_q8_query(keys, q + h * ldq, scratch.q.at(h * q_bytes), scratch.q_scale.at(2 * std::size_t{h}),
                            scratch.q_sum.at(2 * std::size_t{h}));
  }
  kernels.q8_qk(keys, {scratch.q.data(), scratch.q_scale.data(), scratch.q_sum.data()}, group.n_heads, k_page, n_rows,
                scratch.scores.data(), split_tokens);

  const std::int8_t* values = scratch.values.data();
  const auto* value_scales = reinterpret_cast<const float*>(k_page + keys.code_bytes());
  if (kv.shape().v_width == 0) {
    if (scratch.values_of != k_page || scratch.n_values < n_rows) {
      scratch.n_values = (n_rows + 15) / 16 * 16;
      simd::keys_to_values(keys, k_page, scratch.n_values, scratch.values.data());
      scratch.values_of = k_page;
    }
  } else {
    const std::byte* v_page = kv.v_page(split, group.layer, group.kv_head);
    values = reinterpret_cast<const std::int8_t*>(v_page);
    value_scales = reinterpret_cast<const float*>(v_page + kv.shape().q8_values().code_bytes());
  }
  for (std::uint32_t h = 0; h < group.n_heads; ++h) {
    float* p = scratch.scores.at(std::size_t{h} * split_tokens);
    part.sum[h] = kernels.softmax_part(p, n_rows, part.max + h);
    scratch.weight_step[h] =
        simd::quantize_q8_weights(p, value_scales, n_rows, scratch.weights.at(std::size_t{h} * split_tokens));
  }
  kernels.q8_pv(group.d_v, scratch.weights.data(), split_tokens, scratch.weight_step.data(), group.n_heads, values,
                n_rows, part.out, group.d_v);
}

}  // namespace

SplitScratch::SplitScratch(std::uint32_t n_heads, std::uint32_t d_qk, std::uint32_t d_v)
    : scores(std::size_t{n_heads} * split_tokens),
      q(std::size_t{n_heads} * (d_qk + 8)),
      q_scale(2 * std::size_t{n_heads}),
      q_sum(2 * std::size_t{n_heads}),
      weights(std::size_t{n_heads} * split_tokens),
      weight_step(n_heads),
      values(simd::Q8ValueShape{split_tokens, d_v}.code_bytes()) {}

void attend_split(const HeadGroup& group, const KvCache& kv, std::uint32_t n_kv, std::uint32_t split, const float* q,
                  std::size_t ldq, SplitScratch& scratch, const SoftmaxPart& part) {
  const simd::Kernels& kernels = *group.kernels;
  const KvShape& shape = kv.shape();
  const std::uint32_t n_rows = std::min(split_tokens, n_kv - split * split_tokens);
  if (shape.type == simd::KvType::q8) return attend_split_q8(group, kv, n_rows, split, q, ldq, scratch, part);
  float* scores = scratch.scores.data();
  kernels.qk(shape.type, q, ldq, group.n_heads, kv.k_page(split, group.layer, group.kv_head), shape.k_width, n_rows,
             group.d_qk, scores, split_tokens);
  for (std::uint32_t h = 0; h < group.n_heads; ++h) {
    part.sum[h] = kernels.softmax_part(scores + std::size_t{h} * split_tokens, n_rows, part.max + h);
  }
  std::fill_n(part.out, std::size_t{group.n_heads} * group.d_v, 0.0f);
  kernels.pv(shape.type, scores, split_tokens, group.n_heads, kv.v_page(split, group.layer, group.kv_head),
             shape.v_width == 0 ? shape.k_width : shape.v_width, n_rows, group.d_v, part.out, group.d_v);
}

void fold(std::uint32_t n_heads, std::uint32_t d_v, const SoftmaxPart& part, const SoftmaxPart& total) {
  for (std::uint32_t h = 0; h < n_heads; ++h) {
    const float max = std::max(total.max[h], part.max[h]);
    const float total_weight = std::exp(total.max[h] - max), part_weight = std::exp(part.max[h] - max);
    total.max[h] = max;
    total.sum[h] = total.sum[h] * total_weight + part.sum[h] * part_weight;
    float* out = total.out + std::size_t{h} * d_v;
    const float* more = part.out + std::size_t{h} * d_v;
    for (std::uint32_t i = 0; i < d_v; ++i) out[i] = out[i] * total_weight + more[i] * part_weight;
  }
}

void finish(std::uint32_t n_heads, std::uint32_t d_v, const SoftmaxPart& total) {
  for (std::uint32_t h = 0; h < n_heads; ++h) {
    const float scale = 1.0f / total.sum[h];
    float* out = total.out + std::size_t{h} * d_v;
    for (std::uint32_t i = 0; i < d_v; ++i) out[i] *= scale;
  }
}

}  // namespace r1::rt
