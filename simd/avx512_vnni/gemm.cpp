// Batches of packed weights for AVX-512 with VBMI and VNNI.
#include <immintrin.h>

#include <cstdint>

#include "simd/avx512/vector.h"
#include "simd/avx512_vnni/codes.h"
#include "simd/avx512_vnni/gemv.h"
#include "simd/tile_gemm.h"

namespace r1::simd {
namespace {

using quant::Format;

// Two panels by six tokens: twelve sums of integers and twelve of floats, of 32 registers.
struct TileVector : Vector512 {
  static constexpr int tile_panels = 2, tile_tokens = 6;
};

// Bytes above their value by Offset, unsigned.
template <int Offset>
struct Weights {
  using Register = __m512i;
  static std::int32_t start(std::int32_t block_sum) { return -Offset * block_sum; }
  static __m512i load(const std::uint8_t* p) { return _mm512_load_si512(p); }
  static __m512i dot(__m512i acc, __m512i weights, __m512i activations) {
    // GCC 12 copies the sums around the intrinsic, and runs out of registers.
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(weights), "v"(activations));
    return acc;
  }
};

template <Format F>
struct Unpack : Codes<F> {
  using Weights = simd::Weights<64>;
  using Codes<F>::shape, Codes<F>::n_groups, Codes<F>::n_cuts, Codes<F>::half_bytes;
  static constexpr int superchunk_bytes = shape.superchunk_bytes();

  __m512 s4_table;

  explicit Unpack(const PackedMatrix& w) : s4_table(_mm512_loadu_ps(w.s4_table())) {}

  // `weights` and `scales` are the panel's column of the first quad and block; NC columns lie side by side.
  template <int NC>
  void superchunk(const std::uint8_t* p, std::uint8_t (*weights)[64], float (*scales)[16]) const {
    const std::uint8_t* codes = p + shape.scale_bytes();
    for (int b = 0; b < 4; ++b) {
      const __m512 scale = shape.s8 ? s8_scales_512(p + 16 * b) : s4_scales_512(p + 8 * b, s4_table);
      _mm512_store_ps(scales[b * NC], scale);
#pragma GCC unroll 4
      for (int g = 0; g < n_groups; ++g) {
        const __m512i z0 = this->strings(codes), z1 = this->strings(codes + half_bytes);
        codes += 2 * half_bytes;
#pragma GCC unroll 4
        for (int m = 0; m < n_cuts; ++m) {
          // Two dwords a row, even and odd rows apart → first dwords of all rows, second dwords of all rows.
          const __m512i even = this->weights(z0, m), odd = this->weights(z1, m);
          const __m512i first = _mm512_mask_shuffle_epi32(even, 0xaaaa, odd, _MM_PERM_CCAA);
          const __m512i second = _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
          _mm512_store_si512(weights[0], first);
          _mm512_store_si512(weights[NC], second);
          weights += 2 * NC;
        }
      }
    }
  }
};

template <>
struct Unpack<Format::w8> {
  using Weights = simd::Weights<128>;
  static constexpr int superchunk_bytes = w8_superchunk_bytes;

  explicit Unpack(const PackedMatrix&) {}

  template <int NC>
  void superchunk(const std::uint8_t* p, std::uint8_t (*weights)[64], float (*scales)[16]) const {
    for (int b = 0; b < 4; ++b) {
      _mm512_store_ps(scales[b * NC], s8_scales_512(p + 16 * b));
#pragma GCC unroll 8
      for (int quad = 0; quad < 8; ++quad)
        _mm512_store_si512(weights[(8 * b + quad) * NC], _mm512_loadu_si512(p + 64 + 512 * b + 64 * quad));
    }
  }
};

}  // namespace

void use_avx512_vnni_gemm(GemmFn* table) {
  use_tile_gemm<Unpack, TileVector>(table);
}

}  // namespace r1::simd
