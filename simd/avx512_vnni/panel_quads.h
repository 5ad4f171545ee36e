// Internal to simd/: a packed panel's weights, four k at a time, as signed bytes. Internal linkage, as in
// trellis_shape.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#include "simd/avx512/scales.h"
#include "simd/avx512/vector.h"
#include "simd/avx512_vnni/codes.h"

namespace r1::simd {
namespace {

inline constexpr int w8_scale_bytes = 64;

// take(quad of k, bytes [16 rows, 4 k]) in order of k; block(block of k, its scales [16 rows]) before each eighth.
template <quant::Format F, class Block, class Take>
[[gnu::always_inline]] inline void for_each_quad(const PackedMatrix& w, std::uint32_t panel, Block&& block,
                                                 Take&& take) {
  const std::uint32_t n_superchunks = w.layout.k_padded / quant::superchunk_k;
  const auto* p = reinterpret_cast<const std::uint8_t*>(w.panel(panel));
  std::uint32_t quad = 0;
  if constexpr (F == quant::Format::w8) {
    for (std::uint32_t c = 0; c < n_superchunks; ++c) {
      const std::uint8_t* scales = p;
      p += w8_scale_bytes;
      for (std::uint32_t b = 0; b < 4; ++b) {
        block(4 * c + b, s8_scales_512(scales + std::size_t{16} * b));
        for (int i = 0; i < 8; ++i, ++quad, p += 64)
          take(quad, _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(static_cast<char>(0x80))));
      }
    }
  } else {
    constexpr TrellisShape shape = trellis_shape(F);
    Codes<F> cut;
    cut.codebook = _mm512_loadu_si512(quant::info(F).codebook);
    const __m512 s4_table = _mm512_loadu_ps(w.s4_table());
    for (std::uint32_t c = 0; c < n_superchunks; ++c) {
      const std::uint8_t* scales = p;
      p += shape.scale_bytes();
      for (std::uint32_t b = 0; b < 4; ++b) {
        block(4 * c + b, shape.s8 ? s8_scales_512(scales + std::size_t{16} * b)
                                  : s4_scales_512(scales + std::size_t{8} * b, s4_table));
#pragma GCC unroll 4
        for (int g = 0; g < Codes<F>::n_groups; ++g) {
          const __m512i z0 = cut.strings(p), z1 = cut.strings(p + Codes<F>::half_bytes);
          p += 2 * Codes<F>::half_bytes;
#pragma GCC unroll 4
          for (int m = 0; m < Codes<F>::n_cuts; ++m, quad += 2) {
            const __m512i even = cut.weights(z0, m), odd = cut.weights(z1, m);
            take(quad, Vector512::first_dwords(even, odd));
            take(quad + 1, Vector512::second_dwords(even, odd));
          }
        }
      }
    }
  }
}

// table[F] = function_of(F as a constant) for every packed format.
template <class FunctionOf>
void fill_unpack_table(UnpackFn* table, FunctionOf&& function_of) {
  using quant::Format;
  const auto fill = [&]<Format... F>(std::integer_sequence<Format, F...>) {
    ((table[static_cast<int>(F)] = function_of(std::integral_constant<Format, F>())), ...);
  };
  fill(std::integer_sequence<Format, Format::t2, Format::t2_5, Format::t3, Format::t3_5, Format::t4, Format::t4h,
                             Format::t5, Format::nl6, Format::w8>());
}

}  // namespace
}  // namespace r1::simd
