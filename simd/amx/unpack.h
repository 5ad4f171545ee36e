// Internal to simd/: packed weights as tiles of signed bytes, [k / 4, 16 rows, 4 k]. Internal linkage, as in
// trellis_shape.h.
//
// The four block scales of a row's 128 k are folded into the bytes (kernels.h, WideGemm), so that the 128 k need one
// scale.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/avx512/scales.h"
#include "simd/avx512/vector.h"
#include "simd/avx512_vnni/codes.h"

namespace r1::simd {
namespace {

using quant::Format;

// Of 16 rows × 128 k.
struct SuperchunkTiles {
  std::int8_t (*weights)[64];  // [32]
  float* scales;               // [16]
};

// Multiplies bytes, four of a row side by side, by factor / 128, rounded; factor: 16 bits, twice for each row.
inline __m512i fold(__m512i codes, __m512i factor) {
  const __m512i even = _mm512_mulhrs_epi16(_mm512_slli_epi16(codes, 8), factor);
  const __m512i odd =
      _mm512_mulhrs_epi16(_mm512_and_si512(codes, _mm512_set1_epi16(static_cast<short>(0xff00))), factor);
  return _mm512_mask_mov_epi8(even, 0xaaaaaaaaaaaaaaaa, _mm512_slli_epi16(odd, 8));
}

// The factors of four blocks; returns the scale of what they are folded into.
inline __m512 fold_factors(const __m512* block_scales, __m512i* factors) {
  const __m512 greatest = _mm512_max_ps(_mm512_max_ps(_mm512_abs_ps(block_scales[0]), _mm512_abs_ps(block_scales[1])),
                                        _mm512_max_ps(_mm512_abs_ps(block_scales[2]), _mm512_abs_ps(block_scales[3])));
  const __mmask16 any = _mm512_cmp_ps_mask(greatest, _mm512_setzero_ps(), _CMP_GT_OQ);
  const __m512 units = _mm512_maskz_div_ps(any, _mm512_set1_ps(fold_factor_max), greatest);
  for (int b = 0; b < 4; ++b) {
    const __m512i factor = _mm512_cvtps_epi32(_mm512_mul_ps(block_scales[b], units));
    factors[b] = _mm512_mask_mov_epi16(factor, 0xaaaaaaaa, _mm512_slli_epi32(factor, 16));
  }
  return _mm512_mul_ps(greatest, _mm512_set1_ps(128 / fold_factor_max));
}

template <Format F>
struct Unpack : Codes<F> {
  using Codes<F>::shape, Codes<F>::n_groups, Codes<F>::n_cuts, Codes<F>::half_bytes;
  static constexpr int superchunk_bytes = shape.superchunk_bytes();

  __m512 s4_table;

  explicit Unpack(const PackedMatrix& w) : s4_table(_mm512_loadu_ps(w.s4_table())) {
    this->codebook = _mm512_loadu_si512(quant::info(F).codebook);
  }

  void superchunk(const std::uint8_t* p, const SuperchunkTiles& out) const {
    __m512 block_scales[4];
    for (int b = 0; b < 4; ++b)
      block_scales[b] = shape.s8 ? s8_scales_512(p + 16 * b) : s4_scales_512(p + 8 * b, s4_table);
    __m512i factors[4];
    _mm512_store_ps(out.scales, fold_factors(block_scales, factors));
    const std::uint8_t* codes = p + shape.scale_bytes();
    std::int8_t(*weights)[64] = out.weights;
    for (int b = 0; b < 4; ++b) {
#pragma GCC unroll 4
      for (int g = 0; g < n_groups; ++g) {
        const __m512i z0 = this->strings(codes), z1 = this->strings(codes + half_bytes);
        codes += 2 * half_bytes;
#pragma GCC unroll 4
        for (int m = 0; m < n_cuts; ++m) {
          const __m512i even = this->weights(z0, m), odd = this->weights(z1, m);
          _mm512_store_si512(weights[0], fold(Vector512::first_dwords(even, odd), factors[b]));
          _mm512_store_si512(weights[1], fold(Vector512::second_dwords(even, odd), factors[b]));
          weights += 2;
        }
      }
    }
  }
};

}  // namespace
}  // namespace r1::simd
