// Flash-decoding: attention over a KV cache in splits of 256 rows (arXiv 2205.14135; the splits are those of
// "Flash-Decoding", crfm.stanford.edu/2023/10/12/flashdecoding.html). Each split gives its own softmax (maximum, sum,
// weighted values). Eight splits make a run: each is added to those before it, and runs are then folded together, in
// order of position. Where splits and runs begin depends on the position alone, so the result has the same bits whoever
// computes which run, alone or in a batch.
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

// What one member of a team computes in one piece at least: a split of its own would have its part written to memory
// and read again, 2 KB a head that take a sixth of the time of R1's arithmetic.
inline constexpr std::uint32_t run_splits = 8;
[[nodiscard]] constexpr std::uint32_t n_runs(std::uint32_t n_kv) {
  return (n_splits(n_kv) + run_splits - 1) / run_splits;
}

// Softmax over some of the rows, for a group of heads. Not owned.
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

// Queries of some heads in the form that the cache's element type wants. Not owned.
struct Queries {
  const float* x = nullptr;  // [n_heads, ld] scaled; over a bf16 cache: rounded to bf16
  std::size_t ld = 0;
  simd::Q8Queries q8;  // over a q8 cache
};

// Owned room for rows of queries.
struct QueryBuffer {
  QueryBuffer() = default;
  QueryBuffer(std::size_t n_rows, std::uint32_t d_qk);

  std::uint32_t d_qk = 0;
  Buffer<float> x;              // [n_rows, d_qk]
  Buffer<std::int8_t> q8;       // [n_rows, d_qk + 8]
  Buffer<float> q8_scale;       // [n_rows, 2]
  Buffer<std::int32_t> q8_sum;  // [n_rows, 2]

  [[nodiscard]] float* row(std::size_t i) { return x.at(i * d_qk); }
  // Rows `begin` … of x are written: makes what the cache's type wants of them, once for all splits.
  void prepare(const simd::Kernels& kernels, const KvShape& shape, std::size_t begin, std::size_t n);
  // Rows from `begin` on.
  [[nodiscard]] Queries view(const KvShape& shape, std::size_t begin) const;
};

// What attending to splits needs besides; one per member of the team.
struct SplitScratch {
  SplitScratch() = default;
  SplitScratch(std::uint32_t n_heads, std::uint32_t d_v);

  Buffer<float> scores;          // [n_heads, split_tokens]
  Buffer<std::uint8_t> weights;  // [n_heads, split_tokens] q8
  Buffer<float> weight_step;     // [n_heads] q8
  Buffer<float> keep, sum;       // [n_heads] what becomes of the splits before, and the split's own sums
  // A split's rows as the second product wants them, once for all heads: MLA's latents of q8, values of bf16.
  Buffer<std::byte> values;
  const std::byte* values_of = nullptr;  // of this page, as long as no row is stored
  std::uint32_t n_values = 0;            // its first rows
};

// Adds one split of a cache whose first n_kv rows are seen to the softmax of its run; the first split of a run begins
// it.
void attend_split(const HeadGroup& group, const KvCache& kv, std::uint32_t n_kv, std::uint32_t split,
                  const Queries& queries, SplitScratch& scratch, const SoftmaxPart& run);

// total ← total and the part that follows it.
void fold(std::uint32_t n_heads, std::uint32_t d_v, const SoftmaxPart& part, const SoftmaxPart& total);

// out ← out / sum: the attention's output.
void finish(std::uint32_t n_heads, std::uint32_t d_v, const SoftmaxPart& total);

}  // namespace r1::rt
