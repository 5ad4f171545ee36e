// Internal to simd/: one block of 16 rows × 32 k, unpacked to bytes codebook + 64 in the order of w8: byte (k/4)·64 +
// r·4 + (k & 3) holds row r, k. Two instruction sets multiply it (AVX2, AVX-VNNI), which is why it is a header.
// Everything here has internal linkage, so that no instance compiled with more flags is shared with the baseline.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "quant/format.h"

namespace r1::simd {
namespace {

// A 64-entry table of bytes, looked up by the low six bits of an index.
struct Lookup64 {
  __m256i quarter[4];

  explicit Lookup64(const std::int8_t* codebook) {
    for (int i = 0; i < 4; ++i) {
      const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codebook + 16 * i));
      quarter[i] = _mm256_broadcastsi128_si256(_mm_add_epi8(values, _mm_set1_epi8(64)));
    }
  }

  __m256i operator()(__m256i index) const {
    index = _mm256_and_si256(index, _mm256_set1_epi8(0x3f));
    const __m256i bit4 = _mm256_slli_epi16(index, 3), bit5 = _mm256_slli_epi16(index, 2);
    const __m256i low =
        _mm256_blendv_epi8(_mm256_shuffle_epi8(quarter[0], index), _mm256_shuffle_epi8(quarter[1], index), bit4);
    const __m256i high =
        _mm256_blendv_epi8(_mm256_shuffle_epi8(quarter[2], index), _mm256_shuffle_epi8(quarter[3], index), bit4);
    return _mm256_blendv_epi8(low, high, bit5);
  }
};

inline void store_quad(std::uint8_t* out, int quad, int half, __m256i bytes) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(out + 64 * quad + 32 * half), bytes);
}

// t2 (Step 2, one group of 32) and t4, t4h (Step 4, two groups of 16): a ymm is four rows' 8-byte strings; each
// rotation by Step bits brings eight more windows to byte boundaries. Quad 2m + h holds the order q_step2 and q_step4
// have.
template <int Step>
inline void unpack_rotated(const Lookup64& lookup, const std::uint8_t* codes, std::uint8_t* out) {
  constexpr int n_cuts = 8 / Step, n_groups = 4 / n_cuts;
  for (int g = 0; g < n_groups; ++g) {
    const std::uint8_t* strings = codes + 128 * g;
    for (int half = 0; half < 2; ++half) {  // rows 0 … 7 and 8 … 15
      const __m256i even = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(strings + 32 * half));
      const __m256i odd = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(strings + 64 + 32 * half));
#pragma GCC unroll 4
      for (int m = 0; m < n_cuts; ++m) {
        const auto cut = [&](__m256i z) {
          return m == 0 ? z : _mm256_or_si256(_mm256_srli_epi64(z, m * Step), _mm256_slli_epi64(z, 64 - m * Step));
        };
        const __m256i w0 = lookup(cut(even)), w1 = lookup(cut(odd));
        const int quad = (g * n_cuts + m) * 2;
        store_quad(out, quad, half, _mm256_blend_epi32(w0, _mm256_shuffle_epi32(w1, 0xa0), 0xaa));
        store_quad(out, quad + 1, half, _mm256_blend_epi32(_mm256_shuffle_epi32(w0, 0xf5), w1, 0xaa));
      }
    }
  }
}

// Formats whose strings are 5 to 7 bytes: pshufb brings the two bytes of each window to a word, a multiplication moves
// the window to its top, a shift to its bottom.
template <int GroupBytes, int GroupWeights, int StepEven, int StepOdd>
struct WindowTables {
  alignas(16) std::uint8_t bytes[GroupWeights / 8][16];
  alignas(16) std::uint16_t factor[GroupWeights / 8][8];

  constexpr WindowTables() : bytes{}, factor{} {
    int offset = 0;
    for (int t = 0; t < GroupWeights; ++t) {
      bytes[t / 8][2 * (t % 8)] = static_cast<std::uint8_t>((offset >> 3) % GroupBytes);
      bytes[t / 8][2 * (t % 8) + 1] = static_cast<std::uint8_t>(((offset >> 3) + 1) % GroupBytes);
      factor[t / 8][t % 8] = static_cast<std::uint16_t>(1 << (10 - (offset & 7)));
      offset += t & 1 ? StepOdd : StepEven;
    }
  }
};

// Reads up to 8 − GroupBytes bytes past the last string.
template <int GroupBytes, int GroupWeights, int StepEven, int StepOdd>
inline void unpack_windows(const Lookup64& lookup, const std::uint8_t* codes, std::uint8_t* out) {
  static constexpr WindowTables<GroupBytes, GroupWeights, StepEven, StepOdd> tables;
  // Codes of 16 consecutive k of rows r (low lane) and r + 4 (high lane).
  const auto sixteen = [&](int k16, int r) {
    __m256i words[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const int group = GroupWeights == 16 ? k16 : 2 * k16 + i, table = GroupWeights == 16 ? i : 0;
      const std::uint8_t* low = codes + group * 16 * GroupBytes + (r & 1) * 8 * GroupBytes + (r >> 1) * GroupBytes;
      const __m256i strings =
          _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(low))),
                                  _mm_loadl_epi64(reinterpret_cast<const __m128i*>(low + 2 * GroupBytes)), 1);
      const __m256i bytes =
          _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(tables.bytes[table])));
      const __m256i factor =
          _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(tables.factor[table])));
      words[i] = _mm256_srli_epi16(_mm256_mullo_epi16(_mm256_shuffle_epi8(strings, bytes), factor), 10);
    }
    return lookup(_mm256_packus_epi16(words[0], words[1]));
  };
  for (int k16 = 0; k16 < 2; ++k16) {
    for (int half = 0; half < 2; ++half) {
      // Rows r … r + 3 below, r + 4 … r + 7 above, four quads each: a transposition of dwords in each lane.
      const int r = 8 * half;
      const __m256i a = sixteen(k16, r), b = sixteen(k16, r + 1), c = sixteen(k16, r + 2), d = sixteen(k16, r + 3);
      const __m256i ab_low = _mm256_unpacklo_epi32(a, b), ab_high = _mm256_unpackhi_epi32(a, b);
      const __m256i cd_low = _mm256_unpacklo_epi32(c, d), cd_high = _mm256_unpackhi_epi32(c, d);
      store_quad(out, 4 * k16, half, _mm256_unpacklo_epi64(ab_low, cd_low));
      store_quad(out, 4 * k16 + 1, half, _mm256_unpackhi_epi64(ab_low, cd_low));
      store_quad(out, 4 * k16 + 2, half, _mm256_unpacklo_epi64(ab_high, cd_high));
      store_quad(out, 4 * k16 + 3, half, _mm256_unpackhi_epi64(ab_high, cd_high));
    }
  }
}

// One block of a trellis format; out is 512 bytes, aligned to 32.
template <quant::Format F>
inline void unpack_block(const Lookup64& lookup, const std::uint8_t* codes, std::uint8_t* out) {
  using quant::Format;
  if constexpr (F == Format::t2) unpack_rotated<2>(lookup, codes, out);
  if constexpr (F == Format::t4 || F == Format::t4h) unpack_rotated<4>(lookup, codes, out);
  if constexpr (F == Format::t2_5) unpack_windows<5, 16, 2, 3>(lookup, codes, out);
  if constexpr (F == Format::t3) unpack_windows<6, 16, 3, 3>(lookup, codes, out);
  if constexpr (F == Format::t3_5) unpack_windows<7, 16, 3, 4>(lookup, codes, out);
  if constexpr (F == Format::t5) unpack_windows<5, 8, 5, 5>(lookup, codes, out);
  if constexpr (F == Format::nl6) unpack_windows<6, 8, 6, 6>(lookup, codes, out);
}

// The activations in the order unpack_block gives the weights.
template <quant::Format F>
inline const std::int8_t* ordered(const std::int8_t* q, const std::int8_t* q_step2, const std::int8_t* q_step4) {
  if constexpr (F == quant::Format::t2) return q_step2;
  if constexpr (F == quant::Format::t4 || F == quant::Format::t4h) return q_step4;
  return q;
}

}  // namespace
}  // namespace r1::simd
