// Internal to simd/: 16 floats in a 512-bit register, for softmax.h. Internal linkage, as there.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/softmax.h"

namespace r1::simd {
namespace {

struct SoftmaxVector512 {
  using Floats = __m512;
  static constexpr int chains = 4;

  static Floats load(const float* p) { return _mm512_loadu_ps(p); }
  static Floats load_some(const float* p, std::uint32_t n, float fill) {
    return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), static_cast<__mmask16>((1u << n) - 1), p);
  }
  static Floats load_halves(const float* a, const float* b) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(a)), _mm256_loadu_ps(b), 1);
  }
  static void store(float* p, Floats x) { _mm512_storeu_ps(p, x); }
  static Floats set(float x) { return _mm512_set1_ps(x); }
  static Floats set_halves(float a, float b) { return _mm512_insertf32x8(_mm512_set1_ps(a), _mm256_set1_ps(b), 1); }
  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
  static Floats round(Floats x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Floats power_of_2(Floats n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
  }
  static Floats zero_where_less(Floats x, Floats a, Floats y) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, x, _CMP_NLT_UQ), y);
  }
  static float sum_lanes(Floats x) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float max_lanes(Floats x) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  static void store_byte_halves(Floats x, std::uint8_t* a, std::uint8_t* b) {
    const __m512i dwords = _mm512_max_epi32(_mm512_cvtps_epi32(x), _mm512_setzero_si512());
    const __m128i bytes = _mm512_cvtusepi32_epi8(dwords);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(a), bytes);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(b), _mm_unpackhi_epi64(bytes, bytes));
  }
};

}  // namespace
}  // namespace r1::simd
