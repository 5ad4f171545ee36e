// Internal to simd/: block scales of the 16 rows of a panel in one register (AVX-512F). Internal linkage, as in
// trellis_shape.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace r1::simd {
namespace {

inline __m512 s8_scales_512(const std::uint8_t* p) {
  const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32(bytes, 19), _mm512_set1_epi32(119 << 23)));
}

// Lane 2j takes nibble j of the first word, lane 2j + 1 that of the second; vpermps reads the low four bits alone.
inline __m512 s4_scales_512(const std::uint8_t* p, __m512 table) {
  std::int64_t words = 0;
  std::memcpy(&words, p, sizeof words);
  const __m512i shift = _mm512_set_epi32(28, 28, 24, 24, 20, 20, 16, 16, 12, 12, 8, 8, 4, 4, 0, 0);
  return _mm512_permutexvar_ps(_mm512_srlv_epi32(_mm512_set1_epi64(words), shift), table);
}

}  // namespace
}  // namespace r1::simd
