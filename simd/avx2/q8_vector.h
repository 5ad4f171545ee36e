// Internal to simd/: 256-bit registers for q8_attention.h. `Dot` multiplies bytes. Internal linkage, as there.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace r1::simd {
namespace {

template <class Dot>
struct Q8Vector256 : Dot {
  using Sum = __m256i;
  using Floats = __m256;
  static constexpr int lanes = 8;
  static constexpr Q8Tile qk_tile{4, 2}, pv_tile{4, 2};

  static Sum set_sum(std::int32_t x) { return _mm256_set1_epi32(x); }
  static Floats load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Floats x) { _mm256_storeu_ps(p, x); }
  static Floats set(float x) { return _mm256_set1_ps(x); }
  static Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  static Floats to_floats(Sum x) { return _mm256_cvtepi32_ps(x); }
};

inline __m256i load_256(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
inline __m256i broadcast_4(const void* p) {
  std::int32_t four = 0;
  std::memcpy(&four, p, sizeof four);
  return _mm256_set1_epi32(four);
}

}  // namespace
}  // namespace r1::simd
