// Internal to simd/: tiles of tile_gemm.h unpacked by the shuffles of shuffle_gemv.h. Internal linkage, as in
// trellis_shape.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/gemm_by_gemv.h"
#include "simd/shuffle_gemv.h"
#include "simd/tile_gemm.h"

namespace r1::simd {
namespace {

template <quant::Format F, class V>
struct ShuffleUnpack {
  static constexpr TrellisShape shape = trellis_shape(F);
  static constexpr int n_groups = shape.groups(), n_cuts = shape.cuts();
  static constexpr int superchunk_bytes = shape.superchunk_bytes(), offset = 64;

  Lookup64<V> lookup;
  typename V::S4Table s4_table;

  explicit ShuffleUnpack(const PackedMatrix& w) : lookup(quant::info(F).codebook), s4_table(w.s4_table()) {}

  template <int NC>
  void superchunk(const std::uint8_t* p, std::uint8_t (*weights)[4 * V::rows], float (*scales)[V::rows]) const {
    for (int b = 0; b < 4; ++b) {
      const std::uint8_t* codes = p + shape.scale_bytes() + b * shape.block_bytes();
      for (int part = 0; part < V::parts; ++part) {
        V::store(scales[b * NC + part],
                 shape.s8 ? V::s8_scales(p + 16 * b + V::rows * part) : s4_table.scales(p + 8 * b, part));
#pragma GCC unroll 4
        for (int g = 0; g < n_groups; ++g) {
          const std::uint8_t* rows = codes + (g * 16 + part * V::strings) * shape.group_bytes;
          const auto even_strings = V::template load_strings<shape.group_bytes>(rows);
          const auto odd_strings = V::template load_strings<shape.group_bytes>(rows + 8 * shape.group_bytes);
#pragma GCC unroll 4
          for (int m = 0; m < n_cuts; ++m) {
            const auto even = in_order(cut<shape, V>(lookup, even_strings, m));
            const auto odd = in_order(cut<shape, V>(lookup, odd_strings, m));
            const int quad = 8 * b + 2 * (g * n_cuts + m);
            V::store_bytes(weights[quad * NC + part], V::first_dwords(even, odd));
            V::store_bytes(weights[(quad + 1) * NC + part], V::second_dwords(even, odd));
          }
        }
      }
    }
  }

 private:
  // Strings whose neighbours are cut together come with these exchanged.
  static typename V::Bytes in_order(typename V::Bytes weights) {
    if constexpr (shape.rotates() || !pairs_fit(shape)) return weights;
    static constexpr std::uint8_t exchange[16] = {1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14};
    return V::shuffle(weights, V::broadcast16(exchange));
  }
};

template <class V>
struct ShuffleUnpacks {
  template <quant::Format F>
  using Of = ShuffleUnpack<F, V>;
};

// T formats and nl6.
template <class V>
void use_shuffle_gemm(GemmFn* table) {
  use_tile_gemm<ShuffleUnpacks<V>::template Of, V>(table);
}

template <class V>
void use_shuffle_w8_gemm(GemmFn* table) {
  table[static_cast<int>(quant::Format::w8)] = gemm_by_gemv<shuffle_gemv<quant::Format::w8, V>>;
}

}  // namespace
}  // namespace r1::simd
