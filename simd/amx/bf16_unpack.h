// Internal to simd/: packed weights as tiles of bf16, [k / 2, 16 rows, 2 k] in order of k. Internal linkage, as in
// trellis_shape.h.
//
// A weight is code · block scale, cut to bf16 (kernels.h, WideGemm). A code with its bias is a byte; at bits 8 … 15 of
// a float between 2^15 and 2^16 it counts ones, so that one FMA takes the bias off and scales.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/avx512/scales.h"
#include "simd/avx512/vector.h"
#include "simd/avx512_vnni/codes.h"

namespace r1::simd {
namespace {

using quant::Format;

constexpr float codebook_bias = 64, w8_bias = 128;  // of Codes, of w8's bytes

// Of one product: 32 k of 16 rows.
using WeightTile = std::uint8_t[16][64];

// A block's scale and what takes the bias off.
struct BlockScale {
  __m512 scale, offset;

  BlockScale(__m512 s, float bias) : scale(s), offset(_mm512_mul_ps(s, _mm512_set1_ps(-(32768 + bias)))) {}

  // Byte J of each row's four → weights.
  template <int J>
  [[nodiscard]] __m512 weights(__m512i bytes) const {
    if constexpr (J == 0) bytes = _mm512_slli_epi32(bytes, 8);
    if constexpr (J > 1) bytes = _mm512_srli_epi32(bytes, 8 * (J - 1));
    constexpr int and_or = 0xea;
    const __m512i floats =
        _mm512_ternarylogic_epi32(bytes, _mm512_set1_epi32(0xff00), _mm512_set1_epi32(0x47000000), and_or);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(floats), scale, offset);
  }
};

// The upper halves of both, side by side.
inline __m512i pair(__m512 first, __m512 second) {
  constexpr int or_and = 0xf8;
  return _mm512_ternarylogic_epi32(_mm512_srli_epi32(_mm512_castps_si512(first), 16), _mm512_castps_si512(second),
                                   _mm512_set1_epi32(static_cast<int>(0xffff0000)), or_and);
}

// Four k of each row → two rows of a tile.
inline void store_quad(__m512i bytes, const BlockScale& scale, std::uint8_t (*rows)[64]) {
  _mm512_store_si512(rows[0], pair(scale.weights<0>(bytes), scale.weights<1>(bytes)));
  _mm512_store_si512(rows[1], pair(scale.weights<2>(bytes), scale.weights<3>(bytes)));
}

template <Format F>
struct Bf16Unpack : Codes<F> {
  using Codes<F>::shape, Codes<F>::n_groups, Codes<F>::n_cuts, Codes<F>::half_bytes;
  static_assert(!shape.rotates());  // in order of k, as bf16 activations are
  static constexpr int superchunk_bytes = shape.superchunk_bytes();

  __m512 s4_table;

  explicit Bf16Unpack(const PackedMatrix& w) : s4_table(_mm512_loadu_ps(w.s4_table())) {}

  void superchunk(const std::uint8_t* p, WeightTile* tiles) const {
    const std::uint8_t* codes = p + shape.scale_bytes();
    for (int b = 0; b < 4; ++b) {
      const BlockScale scale(shape.s8 ? s8_scales_512(p + 16 * b) : s4_scales_512(p + 8 * b, s4_table), codebook_bias);
      std::uint8_t(*rows)[64] = tiles[b];
#pragma GCC unroll 4
      for (int g = 0; g < n_groups; ++g) {
        const __m512i z0 = this->strings(codes), z1 = this->strings(codes + half_bytes);
        codes += 2 * half_bytes;
#pragma GCC unroll 4
        for (int m = 0; m < n_cuts; ++m, rows += 4) {
          const __m512i even = this->weights(z0, m), odd = this->weights(z1, m);
          store_quad(Vector512::first_dwords(even, odd), scale, rows);
          store_quad(Vector512::second_dwords(even, odd), scale, rows + 2);
        }
      }
    }
  }
};

template <>
struct Bf16Unpack<Format::w8> {
  static constexpr int superchunk_bytes = w8_superchunk_bytes;

  explicit Bf16Unpack(const PackedMatrix&) {}

  void superchunk(const std::uint8_t* p, WeightTile* tiles) const {
    const std::uint8_t* codes = p + 64;
    for (int b = 0; b < 4; ++b) {
      const BlockScale scale(s8_scales_512(p + 16 * b), w8_bias);
      for (int quad = 0; quad < 8; ++quad, codes += 64)
        store_quad(_mm512_loadu_si512(codes), scale, tiles[b] + 2 * quad);
    }
  }
};

}  // namespace
}  // namespace r1::simd
