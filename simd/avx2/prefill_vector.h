// Internal to simd/: sixteen lanes in two 256-bit registers for prefill_kernels.h. Internal linkage, as there.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd/prefill_attention.h"

namespace r1::simd {
namespace {

struct Prefill256 {
  struct Floats {
    __m256 low, high;
  };
  struct Sum {
    __m256i low, high;
  };

  static Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void store(float* p, Floats x) {
    _mm256_storeu_ps(p, x.low);
    _mm256_storeu_ps(p + 8, x.high);
  }
  static Floats set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static Floats subtract(Floats a, Floats b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
  static Floats plus(Floats a, Floats b) { return add(a, b); }
  static Floats minus(Floats a, Floats b) { return subtract(a, b); }
  static Floats multiply(Floats a, Floats b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  static Floats fma(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static Floats maximum(Floats a, Floats b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }

  static Sum set_sum(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static Sum load_sum(const std::int32_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
  }
  static void store_sum(std::int32_t* p, Sum x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.high);
  }
  static Floats to_floats(Sum x) { return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)}; }
  static Sum to_sum(Floats x) { return {_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)}; }

  static Floats add_exponent(Floats x, Floats n) { return {add_exponent(x.low, n.low), add_exponent(x.high, n.high)}; }
  static Floats first_lanes(Floats x, int n, float other) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256 rest = _mm256_set1_ps(other);
    const auto half = [&](__m256 v, int left) {
      return _mm256_blendv_ps(rest, v, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(left), lane)));
    };
    return {half(x.low, n), half(x.high, n - 8)};
  }
  static float sum_of(Floats x) {
    const __m256 eight = _mm256_add_ps(x.low, x.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float maximum_of(Floats x) {
    const __m256 eight = _mm256_max_ps(x.low, x.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }

 private:
  static __m256 add_exponent(__m256 x, __m256 n) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(_mm256_castps_si256(n), 23)));
  }
};

inline __m256i prefill_load(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
inline __m256i prefill_broadcast(const void* p) {
  std::int32_t four = 0;
  std::memcpy(&four, p, sizeof four);
  return _mm256_set1_epi32(four);
}

// Stores of a register's sums as bytes and as words, in range already.
struct PrefillStores256 {
  struct HeldWeights {};
  static constexpr int weights_at_once = 1;
  static __m256i words(Prefill256::Sum x) { return _mm256_permute4x64_epi64(_mm256_packs_epi32(x.low, x.high), 0xd8); }
};

struct PrefillBytes256 : PrefillStores256 {
  static constexpr std::size_t element_bytes = 1;
  // The carry moves a weight by half a step at most: 254 and a half still rounds to 255 at most.
  static constexpr float largest_weight = 254;
  template <int>
  static void store_weights(std::byte* row, std::uint32_t j, Prefill256::Sum x, HeldWeights&) {
    const __m256i w = words(x);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(row + j),
                     _mm_packus_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
  }
};

struct PrefillWords256 : PrefillStores256 {
  static constexpr std::size_t element_bytes = 2;
  static constexpr float largest_weight = 32700;
  template <int>
  static void store_weights(std::byte* row, std::uint32_t j, Prefill256::Sum x, HeldWeights&) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + j * element_bytes), words(x));
  }

  using Keys = Prefill256::Sum;
  using Query = __m256i;
  using Weight = __m256i;
  using Values = Prefill256::Sum;
  static Keys load_keys(const std::byte* p) { return {prefill_load(p), prefill_load(p + 32)}; }
  static Values load_values(const std::byte* p) { return {prefill_load(p), prefill_load(p + 32)}; }
  static Query query(const std::byte* p) { return prefill_broadcast(p); }
  static Weight weight(const std::byte* p) { return prefill_broadcast(p); }
};

}  // namespace
}  // namespace r1::simd
