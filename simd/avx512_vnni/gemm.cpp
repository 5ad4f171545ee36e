// Batches of packed formats for AVX-512 with VBMI and VNNI.
#include <immintrin.h>

#include <cstdint>

#include "simd/avx512_vnni/codes.h"
#include "simd/avx512_vnni/gemv.h"
#include "simd/avx512_vnni/vnni_vector.h"
#include "simd/tile_gemm.h"

namespace r1::simd {
namespace {

using quant::Format;

template <Format F>
struct Unpack : Codes<F> {
  using Codes<F>::shape, Codes<F>::n_groups, Codes<F>::n_cuts, Codes<F>::half_bytes;
  static constexpr int superchunk_bytes = shape.superchunk_bytes(), offset = 64;

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
          const __m512i even = this->weights(z0, m), odd = this->weights(z1, m);
          _mm512_store_si512(weights[0], Vector512::first_dwords(even, odd));
          _mm512_store_si512(weights[NC], Vector512::second_dwords(even, odd));
          weights += 2 * NC;
        }
      }
    }
  }
};

template <>
struct Unpack<Format::w8> : W8Unpack {
  using W8Unpack::W8Unpack;
};

}  // namespace

void use_avx512_vnni_gemm(GemmFn* table) {
  use_tile_gemm<Unpack, VnniVector>(table);
  table[static_cast<int>(Format::w8)] = tile_gemm<Format::w8, Unpack<Format::w8>, VnniVector>;
}

}  // namespace r1::simd
