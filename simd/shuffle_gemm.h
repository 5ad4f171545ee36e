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
concept HasSigns = requires(typename V::Bytes x) {
  V::where_negative(x);
};

// w8's bytes as V multiplies them; they lie in the order of tiles.
template <class V>
struct ShuffleW8Unpack {
  static constexpr int superchunk_bytes = w8_superchunk_bytes, offset = V::w8_offset;

  explicit ShuffleW8Unpack(const PackedMatrix&) {}

  template <int NC>
  void superchunk(const std::uint8_t* p, std::uint8_t (*weights)[4 * V::rows], float (*scales)[V::rows]) const {
    for (int part = 0; part < V::parts; ++part) {
      for (int b = 0; b < 4; ++b) V::store(scales[b * NC + part], V::s8_scales(p + 16 * b + V::rows * part));
      const std::uint8_t* codes = p + 64 + 4 * V::rows * part;
      for (int quad = 0; quad < 32; ++quad)
        V::store_bytes(weights[quad * NC + part], V::w8_bytes(V::load(codes + 64 * quad)));
    }
  }
};

template <class V>
struct W8Vector : V {
  static typename V::Bytes dot(typename V::Bytes acc, typename V::Bytes weights, typename V::Bytes activation) {
    return V::template dot_w8<V::tile_tokens>(acc, V::w8_weights(weights), activation);
  }
};

// With the sign of a weight w apart: |w| · (q xor s), s = −1 where w < 0, lacks |w| there, whatever the token. Sums
// start with that; pairs, −128 · 128 twice at most, fit a word. Zen 3, 512 tokens: 59 → 68 Gmac/s with the core's other
// thread idle, 3 % more beside it.
template <class V>
struct W8SignsVector : V {
  using Bytes = typename V::Bytes;
  struct Column {
    Bytes magnitude, negative;
  };
  static Column load_column(const std::uint8_t* p) { return {V::load(p), V::load(p + 4 * V::rows)}; }
  static Bytes dot(Bytes acc, const Column& weights, Bytes activation) {
    return V::dot(acc, weights.magnitude, V::exclusive_or(activation, weights.negative));
  }
};

template <class V>
struct ShuffleW8SignsUnpack {
  static constexpr int superchunk_bytes = w8_superchunk_bytes, offset = 0;

  explicit ShuffleW8SignsUnpack(const PackedMatrix&) {}

  template <int NC>
  void superchunk(const std::uint8_t* p, std::uint8_t (*weights)[8 * V::rows], float (*scales)[V::rows],
                  std::int32_t (*starts)[V::rows]) const {
    for (int b = 0; b < 4; ++b) {
      for (int part = 0; part < V::parts; ++part) {
        V::store(scales[b * NC + part], V::s8_scales(p + 16 * b + V::rows * part));
        auto start = V::broadcast4(0);
        for (int quad = 8 * b; quad < 8 * b + 8; ++quad) {
          const auto bytes = V::w8_bytes(V::load(p + 64 + 64 * quad + 4 * V::rows * part));
          const auto magnitude = V::magnitude(bytes), negative = V::where_negative(bytes);
          V::store_bytes(weights[quad * NC + part], magnitude);
          V::store_bytes(weights[quad * NC + part] + 4 * V::rows, negative);
          start = V::dot(start, V::both(magnitude, negative), V::broadcast4(0x01010101));
        }
        V::store_bytes(starts[b * NC + part], start);
      }
    }
  }
};

// Few tokens are multiplied as they lie: copying bytes costs a tenth there. Many would come from the third-level cache
// for each panel. Zen 3, Gmac/s: 512 rows of 7,168 by 8 tokens 51 against 45 by tiles, by 128 38 against 46; 1,024
// rows of 1,536 by 32 tokens 30 against 38, by 128 26 against 38.
template <class V>
void shuffle_w8_gemm(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
                     std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy, std::byte* tile) {
  constexpr std::uint32_t tile_min_tokens = 16;
  if (n_tokens < tile_min_tokens) {
    gemm_by_gemv<shuffle_gemv<quant::Format::w8, V>>(w, x, token_begin, n_tokens, panel_begin, panel_end, y, ldy, tile);
  } else if constexpr (HasSigns<V>) {
    tile_gemm<quant::Format::w8, ShuffleW8SignsUnpack<V>, W8SignsVector<V>>(w, x, token_begin, n_tokens, panel_begin,
                                                                            panel_end, y, ldy, tile);
  } else {
    tile_gemm<quant::Format::w8, ShuffleW8Unpack<V>, W8Vector<V>>(w, x, token_begin, n_tokens, panel_begin, panel_end,
                                                                  y, ldy, tile);
  }
}

template <class V>
void use_shuffle_w8_gemm(GemmFn* table) {
  table[static_cast<int>(quant::Format::w8)] = shuffle_w8_gemm<V>;
}

}  // namespace
}  // namespace r1::simd
