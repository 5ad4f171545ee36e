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

constexpr std::uint32_t tile_rows = 16;
constexpr std::size_t tile_bytes = 1024, column_bytes = 64;

// Two tiles of queries by two of rows (or of elements): of four products and four loads, as many as hide behind each
// other (docs/performance.md, "AMX": 17.1 cycles a product of 16).
struct BytesByTiles : PrefillBytes512 {
  static constexpr int tile_queries = 32, tile_registers = 2;
  static constexpr std::uint32_t tile_k = 64;

  // As prefill_dots. n_groups: whole tiles of them; start [NQ, 16] or null
  template <PrefillProduct Product, int NQ, int NR>
  static void dots(const std::byte* rows, std::size_t row_bytes, const std::int32_t* start, const std::byte* columns,
                   std::size_t next_column, std::uint32_t n_groups, std::int32_t* sums) {
    constexpr bool two_rows = NQ == 2 * tile_rows, two_columns = NR == 2;
    static_assert((two_rows || NQ == tile_rows) && (two_columns || NR == 1));
    begin<0>(start, 0);
    if constexpr (two_columns) begin<1>(start, 0);
    if constexpr (two_rows) begin<2>(start, tile_rows);
    if constexpr (two_rows && two_columns) begin<3>(start, tile_rows);
    for (std::uint32_t g = 0; g < n_groups; g += tile_k / 4, rows += tile_k, columns += tile_bytes) {
      Tiles::load<4>(rows, row_bytes);
      Tiles::load<6>(columns, column_bytes);
      multiply<Product, 0, 4, 6>();
      if constexpr (two_columns) {
        Tiles::load<7>(columns + next_column, column_bytes);
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
  template <int Sums>
  static void begin(const std::int32_t* start, std::uint32_t row) {
    if (start == nullptr)
      Tiles::zero<Sums>();
    else
      Tiles::load<Sums>(start + std::size_t{row} * prefill_lanes, prefill_lanes * 4);
  }
  // Queries are signed and keys are not; weights are not and values are.
  template <PrefillProduct Product, int Sums, int Rows, int Columns>
  static void multiply() {
    if constexpr (Product == PrefillProduct::scores)
      Tiles::multiply_signed_unsigned<Sums, Rows, Columns>();
    else
      Tiles::multiply_unsigned_signed<Sums, Rows, Columns>();
  }
};

// One tile of queries by one of rows (or of elements), of two planes each: four products, each with sums of its own.
struct WordsByTiles : PrefillWords512 {
  static constexpr int tile_queries = 16, tile_registers = 1;
  static constexpr std::uint32_t tile_k = 64;

  static void store_weights(std::byte* row, std::uint32_t j, __m512i x) {
    const auto plane = [&](std::uint32_t i) { return reinterpret_cast<__m128i*>(row + i * prefill_page_rows + j); };
    _mm_storeu_si128(plane(0), _mm512_cvtepi32_epi8(_mm512_srai_epi32(x, 8)));
    _mm_storeu_si128(plane(1), _mm512_cvtepi32_epi8(x));
  }

  // n_groups: of pairs of words, whole tiles of them. What sums of words begin with is 0.
  template <PrefillProduct Product, int NQ, int NR>
  static void dots(const std::byte* rows, std::size_t row_bytes, const std::int32_t*, const std::byte* columns,
                   std::size_t next_column, std::uint32_t n_groups, std::int32_t* sums) {
    static_assert(NQ == tile_rows && NR == 1);
    const std::uint32_t n = n_groups * 2;  // elements
    // A query's lower plane lies behind its upper one, a page's weights' behind those of all its rows.
    const std::byte* lower_rows = rows + (Product == PrefillProduct::scores ? n : prefill_page_rows);
    const std::byte* lower_columns =
        columns + (Product == PrefillProduct::scores ? std::size_t{n} * prefill_block_rows : next_column / 2);
    Tiles::zero<0>();
    Tiles::zero<1>();
    Tiles::zero<2>();
    Tiles::zero<3>();
    for (std::uint32_t k = 0; k < n; k += tile_k) {
      const std::size_t column = k / tile_k * tile_bytes;
      Tiles::load<4>(rows + k, row_bytes);
      Tiles::load<6>(columns + column, column_bytes);
      Tiles::multiply<0, 4, 6>();
      Tiles::load<7>(lower_columns + column, column_bytes);
      Tiles::multiply_signed_unsigned<1, 4, 7>();
      Tiles::load<5>(lower_rows + k, row_bytes);
      Tiles::multiply_unsigned_signed<2, 5, 6>();
      Tiles::multiply_unsigned<3, 5, 7>();
    }
    alignas(64) std::int32_t parts[4][NQ * prefill_lanes];
    Tiles::store<0>(parts[0], column_bytes);
    Tiles::store<1>(parts[1], column_bytes);
    Tiles::store<2>(parts[2], column_bytes);
    Tiles::store<3>(parts[3], column_bytes);
    for (std::uint32_t i = 0; i < NQ * prefill_lanes; i += prefill_lanes) {
      const auto part = [&](int p) { return _mm512_load_si512(parts[p] + i); };
      const __m512i middle = _mm512_slli_epi32(_mm512_add_epi32(part(1), part(2)), 8);
      _mm512_storeu_si512(sums + i,
                          _mm512_add_epi32(_mm512_add_epi32(_mm512_slli_epi32(part(0), 16), middle), part(3)));
    }
  }
};

bool has_byte_tiles(const PrefillShape& shape, std::uint32_t n) {
  if (shape.kind != PrefillKind::i8 || n < tile_rows) return false;
  for (int part = 0; part < shape.parts(); ++part) {
    if (shape.width[part] % BytesByTiles::tile_k != 0) return false;
  }
  return true;
}

// Fewer queries than a tile has rows: the last of them fills it up, in a place of its own.
void words_of_few(const PrefillShape& shape, const PrefillQueries& queries, std::uint32_t n,
                  const std::uint32_t* n_visible, const PrefillKeys& keys, const PrefillValues& values,
                  const PrefillState& state) {
  alignas(64) std::byte codes[tile_rows * planes_most_query_bytes];
  alignas(64) float out[tile_rows * planes_most_d_v];
  float scale[2 * tile_rows], max[tile_rows], sum[tile_rows];
  std::int32_t start[2 * tile_rows] = {};
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
  prefill_queries<Prefill512, WordsByTiles, tile_rows>(shape, {codes, query_bytes, scale, start}, visible, keys, values,
                                                       {max, sum, out, shape.d_v});
  for (std::uint32_t i = 0; i < n; ++i) {
    std::memcpy(state.out + i * state.ldo, out + std::size_t{i} * shape.d_v, shape.d_v * sizeof(float));
    state.max[i] = max[i];
    state.sum[i] = sum[i];
  }
}

void amx_prefill_page(const PrefillShape& shape, const PrefillQueries& queries, std::uint32_t n,
                      std::uint32_t first_visible, std::uint32_t queries_per_token, const PrefillKeys& keys,
                      const PrefillValues& values, const PrefillState& state) {
  if (!shape.planes && !has_byte_tiles(shape, n)) {
    return prefill_page<Prefill512, BytesByVnni, WordsByVnni>(shape, queries, n, first_visible, queries_per_token, keys,
                                                              values, state);
  }
  const Tiles tiles(tile_rows, BytesByTiles::tile_k);
  if (!shape.planes) {
    prefill_page_of<Prefill512, BytesByTiles, BytesByVnni>(shape, queries, n, first_visible, queries_per_token, keys,
                                                           values, state);
    return;
  }
  const std::uint32_t left = prefill_page_of<Prefill512, WordsByTiles, void>(shape, queries, n, first_visible,
                                                                             queries_per_token, keys, values, state);
  if (left == 0) return;
  const std::size_t at = n - left;
  std::uint32_t n_visible[tile_rows];
  for (std::uint32_t i = 0; i < left; ++i)
    n_visible[i] =
        std::min(prefill_page_rows, first_visible + (static_cast<std::uint32_t>(at) + i) / queries_per_token);
  words_of_few(
      shape,
      {queries.codes + at * queries.row_bytes, queries.row_bytes, queries.scale + 2 * at, queries.start + 2 * at}, left,
      n_visible, keys, values, {state.max + at, state.sum + at, state.out + at * state.ldo, state.ldo});
}

}  // namespace

void use_amx_prefill_attention(Kernels& kernels) {
  kernels.prefill_page = amx_prefill_page;
  kernels.prefill_planes = true;
}

}  // namespace r1::simd
