// Internal to simd/: GEMV and small-batch products of packed weights for instruction sets whose only byte lookup is
// pshufb: AVX2, AVX-VNNI, AVX-512 without VBMI. `V` is one of them (avx2/vector.h, avx512/vector.h).
//
// A register holds one 8-byte cut for each of V::strings rows, all even or all odd ones of the panel: eight windows a
// row, whose products with eight activations land in two dwords. Windows of 5- to 7-byte strings are brought to words
// by pshufb and to bytes by multiplications; a product with a power of two is the variable shift that 16-bit lanes
// lack. Internal linkage, as in trellis_shape.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd/trellis_shape.h"

namespace r1::simd {
namespace {

struct alignas(64) ByteTable {
  std::uint8_t at[64];
};
struct alignas(64) WordTable {
  std::uint16_t at[32];
};

// How the windows 8m … 8m + 7 of each string of a register are cut from words: to the lower bytes by a high product,
// which shifts down, to the upper bytes by a low product, which shifts up.
struct CutTables {
  ByteTable lower_bytes, upper_bytes;  // where a word's two bytes are
  WordTable lower_factor, upper_factor;
};

// Whether every two neighbours, from an even place on, lie in two bytes: then one shuffle brings both. The second is
// cut to the lower byte, because its offset is never 0 (a shift by 0 is no high product), and meets swapped
// activations.
constexpr bool pairs_fit(TrellisShape shape) {
  for (int t = 0; t < shape.group_weights; t += 2) {
    if (shape.bit_offset(t) % 8 + shape.step_even + 6 > 16) return false;
  }
  return true;
}

constexpr CutTables cut_tables(TrellisShape shape, int m, LaneOffsets lane_offset) {
  CutTables tables{};
  for (int lane = 0; lane < 4; ++lane) {
    for (int i = 0; i < 8; ++i) {  // words of a lane, four a string
      const int string = lane_offset.at[lane] + i / 4 * shape.group_bytes;
      const int word = 8 * lane + i;
      const auto byte = [&](int bit) {
        return static_cast<std::uint8_t>(string + bit / 8 % shape.group_bytes);  // strings are circular
      };
      const int even = shape.bit_offset(8 * m + i % 4 * 2), odd = shape.bit_offset(8 * m + i % 4 * 2 + 1);
      if (pairs_fit(shape)) {
        tables.lower_bytes.at[2 * word] = byte(even);
        tables.lower_bytes.at[2 * word + 1] = byte(even + 8);
        tables.lower_factor.at[word] = static_cast<std::uint16_t>(1 << (16 - even % 8 - (odd - even)));
        tables.upper_factor.at[word] = static_cast<std::uint16_t>(1 << (8 - even % 8));
        continue;
      }
      // A window at the bottom of its byte is taken from the upper byte of the word.
      const bool upper = even % 8 == 0;
      tables.lower_bytes.at[2 * word] = byte(even);
      tables.lower_bytes.at[2 * word + 1] = upper ? byte(even) : byte(even + 8);
      tables.lower_factor.at[word] = static_cast<std::uint16_t>(1 << (16 - (upper ? 8 : even % 8)));
      tables.upper_bytes.at[2 * word] = byte(odd);
      tables.upper_bytes.at[2 * word + 1] = byte(odd + 8);
      tables.upper_factor.at[word] = static_cast<std::uint16_t>(1 << (8 - odd % 8));
    }
  }
  return tables;
}

// A table of 64 bytes (codebook + 64, unsigned), looked up by bits shift … shift + 5 of each byte, shift 0 or 2.
//
// pshufb yields 0 for an index that became negative, so the entries from 16j on are held as what they differ in, by
// xor, from those 16 below. Blends of four tables take as long on Zen (measured on Zen 4) and longer on Intel, where
// each is two or three micro-operations: t2 14.8 against 17.1 · 10^9 weights/s on a Xeon of 2024, t3 10.3 against 12.4.
template <class V>
struct Lookup64 {
  typename V::Bytes step[4];

  explicit Lookup64(const std::int8_t* codebook) {
    std::uint8_t below[16] = {};
    for (int j = 0; j < 4; ++j) {
      std::uint8_t difference[16];
      for (int i = 0; i < 16; ++i) {
        const auto entry = static_cast<std::uint8_t>(codebook[16 * j + i] + 64);
        difference[i] = entry ^ below[i];
        below[i] = entry;
      }
      step[j] = V::broadcast16(difference);
    }
  }

  typename V::Bytes operator()(typename V::Bytes x, int shift) const {
    return V::look_up(step, V::low6(V::shift_right(x, shift)));
  }
};

// The weights of cut m; `strings` as V::load_strings gave them.
template <TrellisShape S, class V>
inline typename V::Bytes cut(const Lookup64<V>& lookup, typename V::Bytes strings, int m) {
  if constexpr (S.rotates()) {
    // Windows of rotations by 0 and 2 do not reach around the end of the string; 4 and 6 are those of it turned by 4.
    const int bits = m * S.step_even;
    return lookup(bits < 4 ? strings : V::rotate4(strings), bits % 4);
  } else {
    static constexpr CutTables tables[2] = {cut_tables(S, 0, V::lane_offset(S.group_bytes)),
                                            cut_tables(S, 1, V::lane_offset(S.group_bytes))};
    const CutTables& table = tables[m];
    const auto words = V::shuffle(strings, V::load(table.lower_bytes.at));
    const auto others = pairs_fit(S) ? words : V::shuffle(strings, V::load(table.upper_bytes.at));
    const auto lower = V::high_product(words, V::load(table.lower_factor.at));
    const auto upper = V::low_product(others, V::load(table.upper_factor.at));
    return lookup(V::lower_upper_bytes(lower, upper), 0);
  }
}

// Exchanges bytes 2i and 2i + 1 of a block's activations.
inline void swap_neighbours(const std::int8_t* q, std::int8_t* out) {
  const __m128i order = _mm_setr_epi8(1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  for (std::size_t i = 0; i < quant::block_k; i += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + i));
    _mm_store_si128(reinterpret_cast<__m128i*>(out + i), _mm_shuffle_epi8(bytes, order));
  }
}

// total[t][part] · row_scale → y, for the rows the matrix has.
template <quant::Format F, class V, int NT>
inline void store_panel(const PackedMatrix& w, std::uint32_t panel, const typename V::Floats (*total)[V::parts],
                        int n_tokens, float* y, std::size_t ldy) {
  const std::uint32_t row = panel * quant::panel_rows, left = w.layout.rows - row;
  for (int t = 0; t < n_tokens; ++t) {
    alignas(64) float rows[quant::panel_rows];
    for (int part = 0; part < V::parts; ++part) {
      const auto sums = F == quant::Format::w8 ? total[t][part] : V::in_order(total[t][part]);
      V::store(rows + V::rows * part, V::multiply(sums, V::load_floats(w.row_scale() + row + V::rows * part)));
    }
    float* out = y + static_cast<std::size_t>(t) * ldy + row;
    std::memcpy(out, rows, (left < quant::panel_rows ? left : quant::panel_rows) * sizeof(float));
  }
}

// The products of a format with the superchunks of a panel.
template <quant::Format F, class V>
struct Product {
  using Bytes = typename V::Bytes;
  using Floats = typename V::Floats;
  static constexpr TrellisShape shape = trellis_shape(F);
  static constexpr int n_groups = shape.groups(), n_cuts = shape.cuts();
  static constexpr int row_registers = n_groups * n_cuts;           // of a block, for V::strings even or odd rows
  static constexpr int n_registers = V::parts * 2 * row_registers;  // of a block
  static constexpr bool swapped = !shape.rotates() && pairs_fit(shape);
  static constexpr int superchunk_bytes = shape.superchunk_bytes();

  Lookup64<V> lookup;
  typename V::S4Table s4_table;

  explicit Product(const PackedMatrix& w) : lookup(quant::info(F).codebook), s4_table(w.s4_table()) {}

  // total[t][part] += superchunk c of a panel · token t
  template <int NT>
  [[gnu::always_inline]] void add(const std::uint8_t* superchunk, std::uint32_t c, const Inputs<F, NT>& in,
                                  Floats (*total)[V::parts]) const {
    Floats acc[NT][V::parts];
    for (auto& parts : acc) {
      for (auto& part : parts) part = V::zero_floats();
    }
    for (int b = 0; b < 4; ++b) {
      const std::size_t block = std::size_t{c} * 4 + static_cast<std::size_t>(b);
      const std::uint8_t* codes = superchunk + shape.scale_bytes() + b * shape.block_bytes();
      alignas(32) std::int8_t swapped_q[NT][quant::block_k];
      const std::int8_t* q[NT];
      for (int t = 0; t < NT; ++t) {
        q[t] = in.q[t] + block * quant::block_k;
        if constexpr (swapped) {
          swap_neighbours(q[t], swapped_q[t]);
          q[t] = swapped_q[t];
        }
      }
      Bytes strings{}, weights[n_registers];
      Bytes sums[V::parts][2][NT];  // even and odd rows; two dwords a row, each starting at half of −64 Σq
      // A register is looked up while products of an earlier one run: a processor that executes out of order sees too
      // few registers ahead to find that by itself.
#pragma GCC unroll 32
      for (int i = 0; i < n_registers + V::products_behind; ++i) {
        if (i < n_registers) {
          const int part = i / (2 * row_registers), odd = i / row_registers % 2, g = i / n_cuts % n_groups;
          if (i % n_cuts == 0)
            strings = V::template load_strings<shape.group_bytes>(codes + (g * 16 + odd * 8 + part * V::strings) *
                                                                              shape.group_bytes);
          weights[i] = cut<shape, V>(lookup, strings, i % n_cuts);
        }
        if (i < V::products_behind) continue;
        const int done = i - V::products_behind, part = done / (2 * row_registers), odd = done / row_registers % 2,
                  eight = done % row_registers;
#pragma GCC unroll 8
        for (int t = 0; t < NT; ++t) {
          if (eight == 0) sums[part][odd][t] = V::broadcast4(-32 * in.block_sum[t][block]);
          sums[part][odd][t] = V::dot(sums[part][odd][t], weights[done], V::broadcast8(q[t] + 8 * eight));
        }
        if (odd == 0 || eight != row_registers - 1) continue;
        const Floats scale = shape.s8 ? V::merged_s8_scales(superchunk + 16 * b + V::rows * part)
                                      : s4_table.merged_scales(superchunk + 8 * b, part);
#pragma GCC unroll 8
        for (int t = 0; t < NT; ++t)
          acc[t][part] = V::fma(V::to_floats(V::merge(sums[part][0][t], sums[part][1][t])), scale, acc[t][part]);
      }
    }
    for (int t = 0; t < NT; ++t) {
      const Floats scale = V::broadcast_float(in.scale[t][c]);
      for (int part = 0; part < V::parts; ++part) total[t][part] = V::fma(acc[t][part], scale, total[t][part]);
    }
  }
};

template <class V>
struct Product<quant::Format::w8, V> {
  using Floats = typename V::Floats;
  static constexpr int superchunk_bytes = w8_superchunk_bytes;

  explicit Product(const PackedMatrix&) {}

  template <int NT>
  [[gnu::always_inline]] void add(const std::uint8_t* superchunk, std::uint32_t c,
                                  const Inputs<quant::Format::w8, NT>& in, Floats (*total)[V::parts]) const {
    Floats acc[NT][V::parts];
    for (auto& parts : acc) {
      for (auto& part : parts) part = V::zero_floats();
    }
    for (int b = 0; b < 4; ++b) {
      const std::size_t block = std::size_t{c} * 4 + static_cast<std::size_t>(b);
      const std::uint8_t* codes = superchunk + 64 + 512 * b;
#pragma GCC unroll 2
      for (int part = 0; part < V::parts; ++part) {
        typename V::Bytes sums[NT];
#pragma GCC unroll 8
        for (int t = 0; t < NT; ++t) sums[t] = V::broadcast4(-V::w8_offset * in.block_sum[t][block]);
#pragma GCC unroll 8
        for (int quad = 0; quad < 8; ++quad) {
          const auto weights = V::w8_weights(V::w8_bytes(V::load(codes + 64 * quad + 4 * V::rows * part)));
#pragma GCC unroll 8
          for (int t = 0; t < NT; ++t) {
            std::int32_t four = 0;
            std::memcpy(&four, in.q[t] + block * quant::block_k + 4 * quad, sizeof four);
            sums[t] = V::template dot_w8<NT>(sums[t], weights, V::broadcast4(four));
          }
        }
        const Floats scale = V::s8_scales(superchunk + 16 * b + V::rows * part);
#pragma GCC unroll 8
        for (int t = 0; t < NT; ++t) acc[t][part] = V::fma(V::to_floats(sums[t]), scale, acc[t][part]);
      }
    }
    for (int t = 0; t < NT; ++t) {
      const Floats scale = V::broadcast_float(in.scale[t][c]);
      for (int part = 0; part < V::parts; ++part) total[t][part] = V::fma(acc[t][part], scale, total[t][part]);
    }
  }
};

template <quant::Format F, class V, int NT>
[[gnu::always_inline]] inline void one_panel(const PackedMatrix& w, const Product<F, V>& product,
                                             const Inputs<F, NT>& in, std::uint32_t panel, float* y, std::size_t ldy) {
  typename V::Floats total[NT][V::parts];
  for (auto& parts : total) {
    for (auto& part : parts) part = V::zero_floats();
  }
  const std::uint32_t n_superchunks = w.layout.k_padded / quant::superchunk_k;
  const auto* superchunk = reinterpret_cast<const std::uint8_t*>(w.panel(panel));
  for (std::uint32_t c = 0; c < n_superchunks; ++c, superchunk += Product<F, V>::superchunk_bytes) {
    for (int line = 0; line < Product<F, V>::superchunk_bytes; line += 64)
      _mm_prefetch(reinterpret_cast<const char*>(superchunk + line + V::prefetch_bytes), _MM_HINT_T0);
    product.template add<NT>(superchunk, c, in, total);
  }
  store_panel<F, V, NT>(w, panel, total, in.n_tokens, y, ldy);
}

// By itself GCC 12 finds the registers for it: within its caller's four batches it was 10 % slower for t4, and 3 % for
// t2. Two tokens of w8 are 10 % faster there.
template <quant::Format F, class V, int NT>
[[gnu::noinline]] void one_panel_apart(const PackedMatrix& w, const Product<F, V>& product, const Inputs<F, NT>& in,
                                       std::uint32_t panel, float* y, std::size_t ldy) {
  one_panel<F, V, NT>(w, product, in, panel, y, ldy);
}

template <quant::Format F, class V>
void shuffle_gemv(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
                  std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy) {
  const Product<F, V> product(w);
  for_batch(n_tokens, [&]<int NT>() {
    const Inputs<F, NT> in(x, token_begin, n_tokens);
    constexpr auto multiply = F == quant::Format::w8 ? one_panel<F, V, NT> : one_panel_apart<F, V, NT>;
    for (std::uint32_t panel = panel_begin; panel < panel_end; ++panel) multiply(w, product, in, panel, y, ldy);
  });
}

// T formats and nl6.
template <class V>
void use_shuffle_gemv(GemvFn* table) {
  using quant::Format;
  table[static_cast<int>(Format::t2)] = shuffle_gemv<Format::t2, V>;
  table[static_cast<int>(Format::t2_5)] = shuffle_gemv<Format::t2_5, V>;
  table[static_cast<int>(Format::t3)] = shuffle_gemv<Format::t3, V>;
  table[static_cast<int>(Format::t3_5)] = shuffle_gemv<Format::t3_5, V>;
  table[static_cast<int>(Format::t4)] = shuffle_gemv<Format::t4, V>;
  table[static_cast<int>(Format::t4h)] = shuffle_gemv<Format::t4h, V>;
  table[static_cast<int>(Format::t5)] = shuffle_gemv<Format::t5, V>;
  table[static_cast<int>(Format::nl6)] = shuffle_gemv<Format::nl6, V>;
}

template <class V>
void use_shuffle_w8_gemv(GemvFn* table) {
  table[static_cast<int>(quant::Format::w8)] = shuffle_gemv<quant::Format::w8, V>;
}

}  // namespace
}  // namespace r1::simd
