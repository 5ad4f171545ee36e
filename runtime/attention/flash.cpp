#include "runtime/attention/flash.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace r1::rt {

namespace {

// A page's values as the kernels of the second product want them: those of the page, or turned into the scratch.
template <class Turn>
const std::byte* turned_values(SplitScratch& scratch, const std::byte* page, std::uint32_t n_rows, Turn&& turn) {
  if (scratch.values_of != page || scratch.n_values < n_rows) {
    scratch.n_values = (n_rows + 15) / 16 * 16;
    turn(scratch.values.data());
    scratch.values_of = page;
  }
  return scratch.values.data();
}

// Heads' maxima may have grown from `before`: what their sums and outputs of the splits so far are to be multiplied by.
void keep_factors(std::uint32_t n_heads, const float* before, const float* max, float* keep) {
  for (std::uint32_t h = 0; h < n_heads; ++h) keep[h] = before[h] == max[h] ? 1.0f : std::exp(before[h] - max[h]);
}

// Both products in integers. Each head's weights are those of the softmax times the values' scales, in steps of their
// own.
void attend_split_q8(const HeadGroup& group, const KvCache& kv, std::uint32_t n_rows, std::uint32_t split,
                     const Queries& queries, SplitScratch& scratch, const SoftmaxPart& run) {
  const simd::Kernels& kernels = *group.kernels;
  const simd::Q8KeyShape keys = kv.shape().q8_keys();
  const std::byte* k_page = kv.k_page(split, group.layer, group.kv_head);
  kernels.q8_qk(keys, queries.q8, group.n_heads, k_page, n_rows, scratch.scores.data(), split_tokens);

  const bool latents = kv.shape().v_width == 0, first = split % run_splits == 0;
  const simd::Q8ValueShape shape = latents ? simd::Q8ValueShape{keys.page_rows, keys.width[0]} : kv.shape().q8_values();
  const std::byte* values = kv.v_page(split, group.layer, group.kv_head);
  const auto* scales =
      reinterpret_cast<const float*>(latents ? k_page + keys.code_bytes() : values + shape.code_bytes());
  std::copy_n(run.max, group.n_heads, scratch.keep.data());
  kernels.q8_weights(scratch.scores.data(), split_tokens, scales, group.n_heads, n_rows, run.max, scratch.sum.data(),
                     scratch.weights.data(), split_tokens, scratch.weight_step.data());
  keep_factors(group.n_heads, scratch.keep.data(), run.max, scratch.keep.data());
  for (std::uint32_t h = 0; h < group.n_heads; ++h) run.sum[h] = run.sum[h] * scratch.keep[h] + scratch.sum[h];
  if (latents) {
    values = turned_values(scratch, k_page, n_rows, [&](std::byte* out) {
      simd::keys_to_values(keys, k_page, scratch.n_values, reinterpret_cast<std::int8_t*>(out));
    });
  }
  kernels.q8_pv(shape, scratch.weights.data(), split_tokens, scratch.weight_step.data(), group.n_heads,
                reinterpret_cast<const std::int8_t*>(values), n_rows, first ? nullptr : scratch.keep.data(), run.out,
                group.d_v);
}

}  // namespace

QueryBuffer::QueryBuffer(std::size_t n_rows, std::uint32_t width)
    : d_qk(width), x(n_rows * width), q8(n_rows * (width + 8)), q8_scale(2 * n_rows), q8_sum(2 * n_rows) {}

void QueryBuffer::prepare(const simd::Kernels& kernels, const KvShape& shape, std::size_t begin, std::size_t n) {
  if (shape.type == simd::KvType::bf16) kernels.round_to_bf16(row(begin), n * d_qk, row(begin));
  if (shape.type != simd::KvType::q8) return;
  const simd::Q8KeyShape keys = shape.q8_keys();
  for (std::size_t i = begin; i < begin + n; ++i) {
    simd::quantize_q8_query(keys, row(i), q8.at(i * keys.quads() * 4), q8_scale.at(2 * i), q8_sum.at(2 * i));
  }
}

Queries QueryBuffer::view(const KvShape& shape, std::size_t begin) const {
  Queries queries{x.at(begin * d_qk), d_qk, {}};
  if (shape.type == simd::KvType::q8) {
    queries.q8 = {q8.at(begin * shape.q8_keys().quads() * 4), q8_scale.at(2 * begin), q8_sum.at(2 * begin)};
  }
  return queries;
}

SplitScratch::SplitScratch(std::uint32_t n_heads, std::uint32_t d_v)
    : scores(std::size_t{n_heads} * split_tokens),
      weights(std::size_t{n_heads} * split_tokens),
      weight_step(n_heads),
      keep(n_heads),
      sum(n_heads),
      values(std::size_t{split_tokens} * ((d_v + 15) / 16 * 16) * sizeof(std::uint16_t)) {}

void attend_split(const HeadGroup& group, const KvCache& kv, std::uint32_t n_kv, std::uint32_t split,
                  const Queries& queries, SplitScratch& scratch, const SoftmaxPart& run) {
  const simd::Kernels& kernels = *group.kernels;
  const KvShape& shape = kv.shape();
  const std::uint32_t n_rows = std::min(split_tokens, n_kv - split * split_tokens);
  if (split % run_splits == 0) {
    std::fill_n(run.max, group.n_heads, -std::numeric_limits<float>::infinity());
    std::fill_n(run.sum, group.n_heads, 0.0f);
  }
  if (shape.type == simd::KvType::q8) return attend_split_q8(group, kv, n_rows, split, queries, scratch, run);
  const bool bf16 = shape.type == simd::KvType::bf16, bf16_dot = bf16 && kernels.bf16_qk != nullptr;
  const std::byte* k_page = kv.k_page(split, group.layer, group.kv_head);
  const std::byte* v_page = kv.v_page(split, group.layer, group.kv_head);
  const std::uint32_t ldv = shape.v_width == 0 ? shape.k_width : shape.v_width;
  float* scores = scratch.scores.data();
  if (bf16_dot) {
    kernels.bf16_qk(queries.x, queries.ld, group.n_heads, reinterpret_cast<const std::uint16_t*>(k_page), shape.k_width,
                    n_rows, group.d_qk, scores, split_tokens);
  } else {
    kernels.qk(shape.type, queries.x, queries.ld, group.n_heads, k_page, shape.k_width, n_rows, group.d_qk, scores,
               split_tokens);
  }
  for (std::uint32_t h = 0; h < group.n_heads; ++h) {
    float* p = scores + std::size_t{h} * split_tokens;
    const float before = run.max[h];
    float sum = kernels.softmax_part(p, n_rows, before, run.max + h), keep = 1;
    if (bf16) sum = kernels.round_to_bf16(p, n_rows, p);
    keep_factors(1, &before, run.max + h, &keep);
    run.sum[h] = run.sum[h] * keep + sum;
    float* out = run.out + std::size_t{h} * group.d_v;
    if (split % run_splits == 0) {
      std::fill_n(out, group.d_v, 0.0f);
    } else if (keep != 1) {
      for (std::uint32_t i = 0; i < group.d_v; ++i) out[i] *= keep;
    }
  }
  if (bf16_dot) {
    const std::byte* values = turned_values(scratch, v_page, n_rows, [&](std::byte* out) {
      scratch.n_values = n_rows;
      kernels.bf16_values(reinterpret_cast<const std::uint16_t*>(v_page), ldv, n_rows, group.d_v, split_tokens,
                          reinterpret_cast<std::uint16_t*>(out));
    });
    kernels.bf16_pv(scores, split_tokens, group.n_heads, reinterpret_cast<const std::uint16_t*>(values), split_tokens,
                    n_rows, group.d_v, run.out, group.d_v);
  } else {
    kernels.pv(shape.type, scores, split_tokens, group.n_heads, v_page, ldv, n_rows, group.d_v, run.out, group.d_v);
  }
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
