// Sums of products over a tile of 4 × 16 outputs that stay in registers: the kernel of moments, their factorisation and
// the feedback. Each output is one chain of fused multiply-adds in order of t, wherever its tile lies, so results
// depend on neither threads nor tiling. AVX2 and FMA are the program's baseline.
#pragma once

#include <immintrin.h>

#include <cstddef>

namespace r1::quant {

inline constexpr std::size_t tile_rows = 4, tile_columns = 16;

enum class TileOutput { set, add };

// out[r · ldo + c] = (or +=) Σ_{t < n} a[t · lda + r] · b[t · ldb + c]
template <TileOutput Output>
inline void tile_product(std::size_t n, const float* a, std::size_t lda, const float* b, std::size_t ldb, float* out,
                         std::size_t ldo) {
  __m256 left[tile_rows], right[tile_rows];
#pragma GCC unroll 4
  for (std::size_t r = 0; r < tile_rows; ++r) left[r] = right[r] = _mm256_setzero_ps();
#pragma GCC unroll 4
  for (std::size_t t = 0; t < n; ++t, a += lda, b += ldb) {
    const __m256 b_left = _mm256_loadu_ps(b), b_right = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 4
    for (std::size_t r = 0; r < tile_rows; ++r) {
      const __m256 value = _mm256_broadcast_ss(a + r);
      left[r] = _mm256_fmadd_ps(value, b_left, left[r]);
      right[r] = _mm256_fmadd_ps(value, b_right, right[r]);
    }
  }
#pragma GCC unroll 4
  for (std::size_t r = 0; r < tile_rows; ++r, out += ldo) {
    if constexpr (Output == TileOutput::add) {
      left[r] = _mm256_add_ps(_mm256_loadu_ps(out), left[r]);
      right[r] = _mm256_add_ps(_mm256_loadu_ps(out + 8), right[r]);
    }
    _mm256_storeu_ps(out, left[r]);
    _mm256_storeu_ps(out + 8, right[r]);
  }
}

}  // namespace r1::quant
