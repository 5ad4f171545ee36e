// Internal to simd/: sixteen lanes in a 512-bit register for prefill_kernels.h. Internal linkage, as there.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd/prefill_attention.h"

namespace r1::simd {
namespace {

struct Prefill512 {
  using Floats = __m512;
  using Sum = __m512i;

  static Floats load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Floats x) { _mm512_storeu_ps(p, x); }
  static Floats set(float x) { return _mm512_set1_ps(x); }
  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  // A product by 1 is exact. Zen 4 adds on two of its pipes and multiplies on the other two.
  static Floats plus(Floats a, Floats b) { return _mm512_fmadd_ps(a, set(1.0f), b); }
  static Floats minus(Floats a, Floats b) { return _mm512_fnmadd_ps(b, set(1.0f), a); }
  static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static Floats maximum(Floats a, Floats b) { return _mm512_max_ps(a, b); }

  static Sum set_sum(std::int32_t x) { return _mm512_set1_epi32(x); }
  static Sum load_sum(const std::int32_t* p) { return _mm512_loadu_si512(p); }
  static void store_sum(std::int32_t* p, Sum x) { _mm512_storeu_si512(p, x); }
  static Floats to_floats(Sum x) { return _mm512_cvtepi32_ps(x); }
  static Sum to_sum(Floats x) { return _mm512_cvtps_epi32(x); }

  static Floats add_exponent(Floats x, Floats n) {
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), _mm512_slli_epi32(_mm512_castps_si512(n), 23)));
  }
  static Floats first_lanes(Floats x, int n, float other) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_mask_mov_ps(_mm512_set1_ps(other), _mm512_cmpgt_epi32_mask(_mm512_set1_epi32(n), lane), x);
  }
  static float sum_of(Floats x) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float maximum_of(Floats x) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
};

inline __m512i prefill_load(const void* p) {
  return _mm512_loadu_si512(p);
}
inline __m512i prefill_broadcast(const void* p) {
  std::int32_t four = 0;
  std::memcpy(&four, p, sizeof four);
  return _mm512_set1_epi32(four);
}

// Operands of products that take them as they lie.
struct PrefillPlain512 {
  using Keys = __m512i;
  using Query = __m512i;
  using Weight = __m512i;
  using Values = __m512i;
  static Keys load_keys(const std::byte* p) { return prefill_load(p); }
  static Values load_values(const std::byte* p) { return prefill_load(p); }
  static Query query(const std::byte* p) { return prefill_broadcast(p); }
  static Weight weight(const std::byte* p) { return prefill_broadcast(p); }
};

// Weights that are stored register by register.
struct PrefillStores512 {
  struct HeldWeights {};
  static constexpr int weights_at_once = 1;
};

struct PrefillBytes512 : PrefillStores512 {
  static constexpr std::size_t element_bytes = 1;
  // The carry moves a weight by half a step at most: 254 and a half still rounds to 255 at most.
  static constexpr float largest_weight = 254;
  template <int>
  static void store_weights(std::byte* row, std::uint32_t j, __m512i x, HeldWeights&) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(row + j), _mm512_cvtusepi32_epi8(x));
  }
};

struct PrefillWords512 : PrefillPlain512, PrefillStores512 {
  static constexpr std::size_t element_bytes = 2;
  static constexpr float largest_weight = 32700;
  template <int>
  static void store_weights(std::byte* row, std::uint32_t j, __m512i x, HeldWeights&) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + j * element_bytes), _mm512_cvtsepi32_epi16(x));
  }
};

}  // namespace
}  // namespace r1::simd
