// Internal to simd/: 16 floats in two 256-bit registers, for softmax.h. Internal linkage, as there.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "simd/softmax.h"

namespace r1::simd {
namespace {

struct SoftmaxVector256 {
  struct Floats {
    __m256 low, high;
  };
  static constexpr int chains = 2;

  static Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static Floats load_some(const float* p, std::uint32_t n, float fill) {
    float x[softmax_lanes];
    std::fill_n(x, softmax_lanes, fill);
    std::memcpy(x, p, n * sizeof(float));
    return load(x);
  }
  static Floats load_halves(const float* a, const float* b) { return {_mm256_loadu_ps(a), _mm256_loadu_ps(b)}; }
  static void store(float* p, Floats x) {
    _mm256_storeu_ps(p, x.low);
    _mm256_storeu_ps(p + 8, x.high);
  }
  static Floats set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static Floats set_halves(float a, float b) { return {_mm256_set1_ps(a), _mm256_set1_ps(b)}; }
  static Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static Floats subtract(Floats a, Floats b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
  static Floats multiply(Floats a, Floats b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  static Floats fma(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static Floats max(Floats a, Floats b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
  static Floats round(Floats x) { return {round(x.low), round(x.high)}; }
  static Floats power_of_2(Floats n) { return {power_of_2(n.low), power_of_2(n.high)}; }
  static Floats zero_where_less(Floats x, Floats a, Floats y) {
    return {_mm256_andnot_ps(_mm256_cmp_ps(a.low, x.low, _CMP_LT_OQ), y.low),
            _mm256_andnot_ps(_mm256_cmp_ps(a.high, x.high, _CMP_LT_OQ), y.high)};
  }
  static float sum_lanes(Floats x) {
    const __m256 eight = _mm256_add_ps(x.low, x.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float max_lanes(Floats x) {
    const __m256 eight = _mm256_max_ps(x.low, x.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  static void store_byte_halves(Floats x, std::uint8_t* a, std::uint8_t* b) {
    store_bytes(x.low, a);
    store_bytes(x.high, b);
  }

 private:
  static __m256 round(__m256 x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static __m256 power_of_2(__m256 n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
  }
  static void store_bytes(__m256 x, std::uint8_t* p) {
    const __m256i dwords = _mm256_cvtps_epi32(x);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(dwords), _mm256_extracti128_si256(dwords, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
  }
};

}  // namespace
}  // namespace r1::simd
