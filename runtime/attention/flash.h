// Flash-decoding: attention over a KV cache in splits of 256 rows (arXiv 2205.14135; the splits are those of
// "Flash-Decoding", crfm.stanford.edu/2023/10/12/flashdecoding.html). Each split gives its own softmax (maximum, sum,
// weighted values); splits are folded together in order of position. Where splits begin depends on the position alone,
// so the result has the same bits whoever computes which split, alone or in a batch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/kv_cache/kv_cache.h"
#include "runtime/model/buffer.h"
#include "simd/kernels.h"

namespace r1::rt {

inline constexpr std::uint32_t split_tokens = kv_page_tokens;
[[nodiscard]] constexpr std::uint32_t n_splits(std::uint32_t n_kv) {
  return (n_kv + split_tokens - 1) / split_tokens;
}

// Softmax over a part of the rows, for a group of heads. Not owned.
struct SoftmaxPart {
  float* max = nullptr;  // [n_heads]
  float* sum = nullptr;  // [n_heads] Σ exp(score − max)
  float* out = nullptr;  // [n_heads, d_v] Σ exp(score − max) · v
};

// Heads that read the same rows of one layer.
struct HeadGroup {
  const simd::Kernels* kernels = nullptr;
  std::uint32_t layer = 0, kv_head = 0, n_heads = 0;
  std::uint32_t d_qk = 0, d_v = 0;
};

// What attending to splits needs besides; one per member of the team.
struct SplitScratch {
  SplitScratch() = default;
  SplitScratch(std::uint32_t n_heads, std::uint32_t d_qk, std::uint32_t d_v);

  Buffer<float> scores;  // [n_heads, split_tokens]
  // q8
  Buffer<std::int8_t> q;                 // [n_heads, d_qk + 8] queries of the heads at hand
  Buffer<float> q_scale;                 // [n_heads, 2]
  Buffer<std::int32_t> q_sum;            // [n_heads, 2]
  Buffer<std::uint8_t> weights;          // [n_heads, split_tokens]
  Buffer<float> weight_step;             // [n_heads]
  Buffer<std::int8_t> values;            // [split_tokens / 4, d_v padded, 4] MLA's latents of one split:
  const std::byte* values_of = nullptr;  // of this page, as long as no row is stored
  std::uint32_t n_values = 0;            // its first rows
};

// The softmax of one split of a cache whose first n_kv rows are seen. q [n_heads, ldq] is scaled already.
void attend_split(const HeadGroup& group, const KvCache& kv, std::uint32_t n_kv, std::uint32_t split, const float* q,
                  std::size_t ldq, SplitScratch& scratch, const SoftmaxPart& part);

// total ← total and the part that follows it.
void fold(std::uint32_t n_heads, std::uint32_t d_v, const SoftmaxPart& part, const SoftmaxPart& total);

// out ← out / sum: the attention's output.
void finish(std::uint32_t n_heads, std::uint32_t d_v, const SoftmaxPart& total);

}  // namespace r1::rt
