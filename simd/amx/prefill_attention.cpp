// Prefill attention for AMX-INT8: both products by tiles, the softmax between them by AVX-512. Words (f16 and bf16
// caches) are multiplied from planes of bytes. The sums are those of every instruction set, so the bits are.
#include <algorithm>
#include <cstring>

#include "simd/amx/gemm.h"
#include "simd/amx/tiles_or_emulated.h"
#include "simd/avx512_vnni/prefill_vnni.h"
#include "simd/kernels.h"
#include "simd/prefill_kernels.h"

namespace r1::simd {
namespace {

constexpr std::uint32_t tile_rows = 16, tile_k = 64;
constexpr std::size_t tile_bytes = 1024, column_bytes = 64;

// Processors that have tiles take remainders and powers at the pace of additions, and shifts at half of it.
//
// The softmax does not run beside the products, where it would be as slow as both in turn: one pipe out of two takes
// 512-bit products, maxima and conversions of floats while tile instructions run (docs/performance.md, "Granite
// Rapids").
struct PrefillAmx : Prefill512 {
  static Floats remainder(Floats x) { return _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Floats scale(Floats x, Floats n) { return _mm512_scalef_ps(x, n); }
};

// What pairs of pairs of registers give is in order again after a transposition of dwords.
inline __m512i in_order(__m512i bytes) {
  return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), bytes);
}

// Sixty-four weights, packed to words pair by pair.
inline void store_bytes(std::byte* to, __m512i a, __m512i b) {
  _mm512_storeu_si512(to, in_order(_mm512_packus_epi16(a, b)));
}
inline void store_planes(std::byte* to, __m512i a, __m512i b) {
  const __m512i low = _mm512_set1_epi16(0xff);
  store_bytes(to, _mm512_srli_epi16(a, 8), _mm512_srli_epi16(b, 8));
  store_bytes(to + prefill_page_rows, _mm512_and_si512(a, low), _mm512_and_si512(b, low));
}

// Weights that are stored 64 at a time: a pack costs a quarter of a conversion to bytes.
template <class Elements, auto Store>
struct HoldsWeights : Elements {
  struct HeldWeights {
    __m512i first, words;
  };
  static constexpr int weights_at_once = 4;

  template <int Part>
  [[gnu::always_inline]] static void store_weights(std::byte* row, std::uint32_t j, __m512i x, HeldWeights& held) {
    static_assert(Part < weights_at_once);
    if constexpr (Part % 2 == 0) held.first = x;
    if constexpr (Part == 1) held.words = _mm512_packus_epi32(held.first, x);
    if constexpr (Part == 3) Store(row + j - 3 * prefill_lanes, held.words, _mm512_packus_epi32(held.first, x));
  }
};

// Two tiles of queries by two of rows (or of elements): of four products and four loads, as many as hide behind each
// other (docs/performance.md, "AMX": 17.1 cycles a product of 16).
struct BytesByTiles : HoldsWeights<PrefillBytes512, store_bytes> {
  static constexpr int tile_queries = 32, tile_registers = 2;
  static constexpr std::uint32_t tile_k = simd::tile_k;

  // As prefill_dots. n_groups: whole tiles of them
  template <PrefillProduct Product, int NQ, int NR>
  static void dots(const std::byte* rows, std::size_t row_bytes, const std::byte* columns, std::size_t next_column,
                   std::uint32_t n_groups, std::int32_t* sums) {
    constexpr bool two_rows = NQ == 2 * tile_rows, two_columns = NR == 2;
    static_assert((two_rows || NQ == tile_rows) && (two_columns || NR == 1));
    Tiles::zero<0>();
    if constexpr (two_columns) Tiles::zero<1>();
    if constexpr (two_rows) Tiles::zero<2>();
    if constexpr (two_rows && two_columns) Tiles::zero<3>();
    for (std::uint32_t g = 0; g < n_groups; g += tile_k / 4, rows += tile_k, columns += tile_bytes) {
      Tiles::load<4>(rows, row_bytes);
      Tiles::stream<6>(columns, column_bytes);
      multiply<Product, 0, 4, 6>();
      if constexpr (two_columns) {
        Tiles::stream<7>(columns + next_column, column_bytes);
        multiply<Product, 1, 4, 7>();
      }
      if constexpr (two_rows) {
        Tiles::load<5>(rows + tile_rows * row_bytes, row_bytes);
        multiply<Product, 2, 5, 6>();
      }
      if constexpr (two_rows && two_columns) multiply<Product, 3, 5, 7>();
    }
    constexpr std::size_t row_sums = NR * prefill_lanes;
    Tiles::store<0>(sums, row_sums * 4);
    if constexpr (two_columns) Tiles::store<1>(sums + prefill_lanes, row_sums * 4);
    if constexpr (two_rows) Tiles::store<2>(sums + tile_rows * row_sums, row_sums * 4);
    if constexpr (two_rows && two_columns) Tiles::store<3>(sums + tile_rows * row_sums + prefill_lanes, row_sums * 4);
  }

 private:
  // Weights are not signed.
  template <PrefillProduct Product, int Sums, int Rows, int Columns>
  static void multiply() {
    if constexpr (Product == PrefillProduct::scores)
      Tiles::multiply<Sums, Rows, Columns>();
    else
      Tiles::multiply_unsigned_signed<Sums, Rows, Columns>();
  }
};

// One tile of queries by one of rows (or of elements), of two planes each: four products. Those of an upper and a lower
// plane have the same place, and so one register.
struct WordsByTiles : HoldsWeights<PrefillWords512, store_planes> {
  static constexpr int tile_queries = 16, tile_registers = 1;
  static constexpr std::uint32_t tile_k = simd::tile_k;

  // n_groups: of pairs of words, whole tiles of them
  template <PrefillProduct Product, int NQ, int NR>
  static void dots(const std::byte* rows, std::size_t row_bytes, const std::byte* columns, std::size_t next_column,
                   std::uint32_t n_groups, std::int32_t* sums) {
    static_assert(NQ == tile_rows && NR == 1);
    const std::uint32_t n = n_groups * 2;  // elements
    // A query's lower plane lies behind its upper one, a page's weights' behind those of all its rows.
    const std::byte* lower_rows = rows + (Product == PrefillProduct::scores ? n : prefill_page_rows);
    const std::byte* lower_columns =
        columns + (Product == PrefillProduct::scores ? std::size_t{n} * prefill_block_rows : next_column / 2);
    Tiles::zero<0>();
    Tiles::zero<1>();
    Tiles::zero<2>();
    for (std::uint32_t k = 0; k < n; k += tile_k) {
      const std::size_t column = k / tile_k * tile_bytes;
      Tiles::load<4>(rows + k, row_bytes);
      Tiles::stream<6>(columns + column, column_bytes);
      Tiles::multiply<0, 4, 6>();
      Tiles::stream<7>(lower_columns + column, column_bytes);
      Tiles::multiply_signed_unsigned<1, 4, 7>();
      Tiles::load<5>(lower_rows + k, row_bytes);
      Tiles::multiply_unsigned<2, 5, 7>();
      Tiles::multiply_unsigned_signed<1, 5, 6>();
    }
    alignas(64) std::int32_t parts[3][NQ * prefill_lanes];
    Tiles::store<0>(parts[0], column_bytes);
    Tiles::store<1>(parts[1], column_bytes);
    Tiles::store<2>(parts[2], column_bytes);
    for (std::uint32_t i = 0; i < NQ * prefill_lanes; i += prefill_lanes) {
      const auto part = [&](int p) { return _mm512_load_si512(parts[p] + i); };
      const __m512i upper = _mm512_add_epi32(_mm512_slli_epi32(part(0), 8), part(1));
      _mm512_storeu_si512(sums + i, _mm512_add_epi32(_mm512_slli_epi32(upper, 8), part(2)));
    }
  }
};

// Fewer queries than a tile has rows: the last of them fills it up, in a place of its own.
template <class D>
void few_queries(const PrefillShape& shape, const PrefillQueries& queries, std::uint32_t n,
                 const std::uint32_t* n_visible, const PrefillKeys& keys, const PrefillValues& values,
                 const PrefillState& state) {
  alignas(64) std::byte codes[tile_rows * tiles_most_query_bytes];
  alignas(64) float out[tile_rows * tiles_most_d_v];
  float scale[2 * tile_rows], max[tile_rows], sum[tile_rows];
  std::uint32_t visible[tile_rows];
  const std::size_t query_bytes = shape.query_bytes();
  for (std::uint32_t i = 0; i < tile_rows; ++i) {
    const std::size_t from = std::min(i, n - 1);
    std::memcpy(codes + i * query_bytes, queries.codes + from * queries.row_bytes, query_bytes);
    std::memcpy(scale + 2 * std::size_t{i}, queries.scale + 2 * from, 2 * sizeof(float));
    std::memcpy(out + std::size_t{i} * shape.d_v, state.out + from * state.ldo, shape.d_v * sizeof(float));
    max[i] = state.max[from];
    sum[i] = state.sum[from];
    visible[i] = n_visible[from];
  }
  prefill_queries<PrefillAmx, D, tile_rows>(shape, {codes, query_bytes, scale, nullptr}, visible, keys, values,
                                            {max, sum, out, shape.d_v});
  for (std::uint32_t i = 0; i < n; ++i) {
    std::memcpy(state.out + i * state.ldo, out + std::size_t{i} * shape.d_v, shape.d_v * sizeof(float));
    state.max[i] = max[i];
    state.sum[i] = sum[i];
  }
}

template <class D>
void page_by_tiles(const PrefillShape& shape, const PrefillQueries& queries, std::uint32_t n,
                   std::uint32_t first_visible, std::uint32_t queries_per_token, const PrefillKeys& keys,
                   const PrefillValues& values, const PrefillState& state) {
  const Tiles tiles(tile_rows, tile_k);
  const std::uint32_t left =
      prefill_page_of<PrefillAmx, D, void>(shape, queries, n, first_visible, queries_per_token, keys, values, state);
  if (left == 0) return;
  const std::uint32_t at = n - left;
  std::uint32_t n_visible[tile_rows];
  prefill_visible<tile_rows>(first_visible, at, queries_per_token, n_visible);
  few_queries<D>(
      shape, {queries.codes + at * queries.row_bytes, queries.row_bytes, queries.scale + 2 * std::size_t{at}, nullptr},
      left, n_visible, keys, values, {state.max + at, state.sum + at, state.out + at * state.ldo, state.ldo});
}

void amx_prefill_page(const PrefillShape& shape, const PrefillQueries& queries, std::uint32_t n,
                      std::uint32_t first_visible, std::uint32_t queries_per_token, const PrefillKeys& keys,
                      const PrefillValues& values, const PrefillState& state) {
  const auto page = !shape.tiles                    ? prefill_page<Prefill512, BytesByVnni, WordsByVnni>
                    : shape.kind == PrefillKind::i8 ? page_by_tiles<BytesByTiles>
                                                    : page_by_tiles<WordsByTiles>;
  page(shape, queries, n, first_visible, queries_per_token, keys, values, state);
}

}  // namespace

void use_amx_prefill_attention(Kernels& kernels) {
  kernels.prefill_page = amx_prefill_page;
  kernels.prefill_tiles = true;
}

}  // namespace r1::simd
