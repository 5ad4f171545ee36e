#include "runtime/attention/flash.h"

#include <algorithm>
#include <cmath>

namespace r1::rt {

void attend_split(const HeadGroup& group, const KvCache& kv, std::uint32_t n_kv, std::uint32_t split, const float* q,
                  std::size_t ldq, float* scores, const SoftmaxPart& part) {
  const simd::Kernels& kernels = *group.kernels;
  const KvShape& shape = kv.shape();
  const std::uint32_t n_rows = std::min(split_tokens, n_kv - split * split_tokens);
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
