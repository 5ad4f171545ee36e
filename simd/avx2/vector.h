// Internal to simd/: 256-bit registers for shuffle_gemv.h. `Dot` multiplies bytes, by vpmaddubsw (AVX2) or vpdpbusd
// (AVX-VNNI); LookupOf is one of the lookups there. Internal linkage, as in trellis_shape.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd/trellis_shape.h"

namespace r1::simd {
namespace {

struct alignas(32) RegisterOfBytes {
  std::uint8_t at[32];
};
constexpr RegisterOfBytes all_bytes(int x) {
  RegisterOfBytes r{};
  for (auto& byte : r.at) byte = static_cast<std::uint8_t>(x);
  return r;
}
constexpr RegisterOfBytes minus_bytes[3] = {all_bytes(-16), all_bytes(-32), all_bytes(-48)};

template <class Dot>
struct Vector256 : Dot {
  using Bytes = __m256i;
  using Floats = __m256;
  static constexpr int strings = 4;  // of a register of codes
  static constexpr int rows = 8;     // of a register of floats
  static constexpr int parts = 2;    // of a panel
  static constexpr int prefetch_bytes = 2048;
  static constexpr int tile_panels = 1;  // of a batch's tile; Dot says how many tokens meet it at once

  static Bytes load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static Bytes broadcast4(std::int32_t x) { return _mm256_set1_epi32(x); }
  static Bytes broadcast8(const std::int8_t* p) {
    std::int64_t eight = 0;
    std::memcpy(&eight, p, sizeof eight);
    return _mm256_set1_epi64x(eight);
  }
  static Bytes broadcast16(const std::uint8_t* p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }

  // The upper lane's load ends where the strings do, so that nothing behind them is read.
  static constexpr LaneOffsets lane_offset(int group_bytes) { return {{0, 16 - 2 * group_bytes, 0, 0}}; }
  template <int GroupBytes>
  static Bytes load_strings(const std::uint8_t* p) {
    if constexpr (GroupBytes == 8) return load(p);
    const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 4 * GroupBytes - 16));
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
  }

  static Bytes rotate4(Bytes x) { return _mm256_or_si256(_mm256_srli_epi64(x, 4), _mm256_slli_epi64(x, 60)); }
  static Bytes shift_right(Bytes x, int bits) { return bits == 0 ? x : _mm256_srli_epi64(x, bits); }
  static Bytes shuffle(Bytes table, Bytes index) { return _mm256_shuffle_epi8(table, index); }
  static Bytes low6(Bytes x) { return _mm256_and_si256(x, _mm256_set1_epi8(0x3f)); }
  // Written out: GCC 12 mixes several lookups until tables no longer fit the 16 registers, and reads them anew from the
  // stack each time. t2 10.6 against 12.4 · 10^9 weights/s on a Zen 3, t3 8.8 against 9.7, t4 11.1 against 12.3.
  static Bytes look_up(const Bytes* step, Bytes index) {
    Bytes i1, i2, i3;
    asm("vpaddb %[minus16], %[i0], %[i1]\n\t"
        "vpaddb %[minus32], %[i0], %[i2]\n\t"
        "vpaddb %[minus48], %[i0], %[i3]\n\t"
        "vpshufb %[i0], %[step0], %[i0]\n\t"
        "vpshufb %[i1], %[step1], %[i1]\n\t"
        "vpshufb %[i2], %[step2], %[i2]\n\t"
        "vpshufb %[i3], %[step3], %[i3]\n\t"
        "vpxor %[i1], %[i0], %[i0]\n\t"
        "vpxor %[i2], %[i3], %[i3]\n\t"
        "vpxor %[i3], %[i0], %[i0]"
        : [i0] "+x"(index), [i1] "=&x"(i1), [i2] "=&x"(i2), [i3] "=&x"(i3)
        : [step0] "x"(step[0]), [step1] "x"(step[1]), [step2] "x"(step[2]), [step3] "x"(step[3]),
          [minus16] "m"(minus_bytes[0]), [minus32] "m"(minus_bytes[1]), [minus48] "m"(minus_bytes[2]));
    return index;
  }
  static Bytes high_product(Bytes a, Bytes b) { return _mm256_mulhi_epu16(a, b); }
  static Bytes low_product(Bytes a, Bytes b) { return _mm256_mullo_epi16(a, b); }
  static Bytes lower_upper_bytes(Bytes lower, Bytes upper) {
    return _mm256_blendv_epi8(lower, upper, _mm256_set1_epi16(static_cast<short>(0xff00)));
  }

  // Sums of even and of odd rows, two dwords a row → one dword a row, in the order 0 2 1 3, 4 6 5 7.
  static Bytes merge(Bytes even, Bytes odd) {
    const __m256 e = _mm256_castsi256_ps(even), o = _mm256_castsi256_ps(odd);
    return _mm256_add_epi32(_mm256_castps_si256(_mm256_shuffle_ps(e, o, 0x88)),
                            _mm256_castps_si256(_mm256_shuffle_ps(e, o, 0xdd)));
  }
  // From that order to the rows' own.
  static Floats in_order(Floats merged) { return _mm256_permute_ps(merged, 0xd8); }

  // Two dwords a row, even and odd rows apart → the first, or the second, dwords of all rows.
  static Bytes first_dwords(Bytes even, Bytes odd) {
    return _mm256_blend_epi32(even, _mm256_shuffle_epi32(odd, 0xa0), 0xaa);
  }
  static Bytes second_dwords(Bytes even, Bytes odd) {
    return _mm256_blend_epi32(_mm256_shuffle_epi32(even, 0xf5), odd, 0xaa);
  }

  static Floats zero_floats() { return _mm256_setzero_ps(); }
  static Floats load_floats(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Floats x) { _mm256_store_ps(p, x); }
  static void store_bytes(void* p, Bytes x) { _mm256_store_si256(static_cast<__m256i*>(p), x); }
  static Floats broadcast_float(float x) { return _mm256_set1_ps(x); }
  static Floats to_floats(Bytes x) { return _mm256_cvtepi32_ps(x); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  static Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }

  static Floats s8_scales(const std::uint8_t* p) {
    return s8_floats(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }

  static Floats merged_s8_scales(const std::uint8_t* p) {
    const __m256i order = _mm256_setr_epi8(0, -1, -1, -1, 2, -1, -1, -1, 1, -1, -1, -1, 3, -1, -1, -1,  //
                                           4, -1, -1, -1, 6, -1, -1, -1, 5, -1, -1, -1, 7, -1, -1, -1);
    return s8_floats(_mm256_shuffle_epi8(broadcast8(reinterpret_cast<const std::int8_t*>(p)), order));
  }

  // The scales of rows 8·part … 8·part + 7 are nibbles 4·part … of two words; the table of 16 floats is two registers.
  struct S4Table {
    Floats low, high;

    explicit S4Table(const float* table) : low(_mm256_loadu_ps(table)), high(_mm256_loadu_ps(table + 8)) {}

    [[nodiscard]] Floats scales(const std::uint8_t* p, int part) const {
      return at(words(p), part == 0 ? _mm256_set_epi32(12, 12, 8, 8, 4, 4, 0, 0)
                                    : _mm256_set_epi32(28, 28, 24, 24, 20, 20, 16, 16));
    }
    [[nodiscard]] Floats merged_scales(const std::uint8_t* p, int part) const {
      return at(_mm256_shuffle_epi32(words(p), 0x50), part == 0 ? _mm256_set_epi32(12, 8, 12, 8, 4, 0, 4, 0)
                                                                : _mm256_set_epi32(28, 24, 28, 24, 20, 16, 20, 16));
    }

   private:
    static Bytes words(const std::uint8_t* p) { return broadcast8(reinterpret_cast<const std::int8_t*>(p)); }
    // vpermps reads the low three bits alone; the fourth chooses between the registers.
    [[nodiscard]] Floats at(Bytes words, Bytes shift) const {
      const __m256i index = _mm256_srlv_epi32(words, shift);
      const __m256 bit3 = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
      return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index), bit3);
    }
  };

 private:
  static Floats s8_floats(Bytes bytes) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32(bytes, 19), _mm256_set1_epi32(119 << 23)));
  }
};

}  // namespace
}  // namespace r1::simd
