// Internal to simd/: 512-bit registers with AVX-512F, BW, VL and DQ for shuffle_gemv.h. Internal linkage, as in
// trellis_shape.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd/avx512/scales.h"
#include "simd/shuffle_gemv.h"

namespace r1::simd {
namespace {

struct Vector512 {
  using Bytes = __m512i;
  using Floats = __m512;
  static constexpr int strings = 8;  // of a register of codes
  static constexpr int rows = 16;    // of a register of floats
  static constexpr int parts = 1;    // of a panel
  static constexpr int prefetch_bytes = 2048;
  // Of a batch's tile: twelve sums of integers and twelve of floats, of 32 registers.
  static constexpr int tile_panels = 2, tile_tokens = 6;
  static constexpr int products_behind = 0;

  static Bytes load(const void* p) { return _mm512_loadu_si512(p); }
  static Bytes broadcast4(std::int32_t x) { return _mm512_set1_epi32(x); }
  static Bytes broadcast8(const std::int8_t* p) {
    std::int64_t eight = 0;
    std::memcpy(&eight, p, sizeof eight);
    return _mm512_set1_epi64(eight);
  }
  static Bytes broadcast16(const std::uint8_t* p) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }

  // Eight strings side by side; a lane takes the four dwords from the one where its two strings begin.
  static constexpr LaneOffsets lane_offset(int group_bytes) {
    return {{0, 2 * group_bytes % 4, 4 * group_bytes % 4, 6 * group_bytes % 4}};
  }
  template <int GroupBytes>
  static Bytes load_strings(const std::uint8_t* p) {
    if constexpr (GroupBytes == 8) return load(p);
    // Nothing behind them is read, but what lies before them, as in avx512_vnni/codes.h.
    constexpr int before = 64 - 8 * GroupBytes;
    constexpr int d0 = before / 4, d1 = d0 + 2 * GroupBytes / 4, d2 = d0 + 4 * GroupBytes / 4,
                  d3 = d0 + 6 * GroupBytes / 4;
    const __m512i dwords = _mm512_setr_epi32(d0, d0 + 1, d0 + 2, d0 + 3, d1, d1 + 1, d1 + 2, d1 + 3, d2, d2 + 1, d2 + 2,
                                             d2 + 3, d3, d3 + 1, d3 + 2, d3 + 3);
    return _mm512_permutexvar_epi32(dwords, load(p - before));
  }

  static Bytes rotate4(Bytes x) { return _mm512_ror_epi64(x, 4); }
  static Bytes shift_right(Bytes x, int bits) {
    return bits == 0 ? x : _mm512_srli_epi64(x, static_cast<unsigned>(bits));
  }
  static Bytes shuffle(Bytes table, Bytes index) { return _mm512_shuffle_epi8(table, index); }
  static Bytes low6(Bytes x) { return _mm512_and_si512(x, _mm512_set1_epi8(0x3f)); }
  static Bytes look_up(const Bytes* step, Bytes index) {
    const auto from = [&](int j) { return shuffle(step[j], _mm512_sub_epi8(index, _mm512_set1_epi8(16 * j))); };
    return _mm512_xor_si512(_mm512_ternarylogic_epi32(from(0), from(1), from(2), 0x96), from(3));
  }
  static Bytes high_product(Bytes a, Bytes b) { return _mm512_mulhi_epu16(a, b); }
  static Bytes low_product(Bytes a, Bytes b) { return _mm512_mullo_epi16(a, b); }
  static Bytes lower_upper_bytes(Bytes lower, Bytes upper) {
    return _mm512_mask_mov_epi8(lower, 0xaaaaaaaaaaaaaaaa, upper);
  }

  // Unsigned × signed bytes. Codebook bytes are at most 127, so a pair's sum stays below 2^15. The addition is written
  // out, as in avx2/gemv.cpp.
  static Bytes dot(Bytes acc, Bytes weights, Bytes activation) {
    const __m512i pairs = _mm512_madd_epi16(_mm512_maddubs_epi16(weights, activation), _mm512_set1_epi16(1));
    asm("vpaddd %1, %0, %0" : "+v"(acc) : "v"(pairs));
    return acc;
  }
  // w8's bytes reach 255: they are made signed, and the sign goes to the activation, |weight| ≤ 128.
  static constexpr int w8_offset = 0;
  struct W8Weights {
    Bytes magnitude;
    __mmask64 negative;
  };
  static Bytes w8_bytes(Bytes stored) { return _mm512_xor_si512(stored, _mm512_set1_epi8(static_cast<char>(0x80))); }
  static W8Weights w8_weights(Bytes bytes) { return {_mm512_abs_epi8(bytes), _mm512_movepi8_mask(bytes)}; }
  template <int>
  static Bytes dot_w8(Bytes acc, const W8Weights& weights, Bytes activation) {
    return dot(acc, weights.magnitude,
               _mm512_mask_sub_epi8(activation, weights.negative, _mm512_setzero_si512(), activation));
  }

  // Sums of even and of odd rows, two dwords a row → one dword a row, in order.
  static Bytes merge(Bytes even, Bytes odd) {
    const __m512i sum = _mm512_add_epi32(even, _mm512_srli_epi64(even, 32));
    return _mm512_mask_add_epi32(sum, 0xaaaa, odd, _mm512_slli_epi64(odd, 32));
  }
  static Floats in_order(Floats merged) { return merged; }

  // Two dwords a row, even and odd rows apart → the first, or the second, dwords of all rows.
  static Bytes first_dwords(Bytes even, Bytes odd) {
    return _mm512_mask_shuffle_epi32(even, 0xaaaa, odd, _MM_PERM_CCAA);
  }
  static Bytes second_dwords(Bytes even, Bytes odd) {
    return _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
  }

  static Floats zero_floats() { return _mm512_setzero_ps(); }
  static Floats load_floats(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Floats x) { _mm512_store_ps(p, x); }
  static void store_bytes(void* p, Bytes x) { _mm512_store_si512(p, x); }
  static Floats broadcast_float(float x) { return _mm512_set1_ps(x); }
  static Floats to_floats(Bytes x) { return _mm512_cvtepi32_ps(x); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }

  static Floats s8_scales(const std::uint8_t* p) { return s8_scales_512(p); }
  static Floats merged_s8_scales(const std::uint8_t* p) { return s8_scales_512(p); }
  struct S4Table {
    Floats table;
    explicit S4Table(const float* p) : table(_mm512_loadu_ps(p)) {}
    [[nodiscard]] Floats scales(const std::uint8_t* p, int) const { return s4_scales_512(p, table); }
    [[nodiscard]] Floats merged_scales(const std::uint8_t* p, int part) const { return scales(p, part); }
  };
};

}  // namespace
}  // namespace r1::simd
