// Prefill attention for AMX-INT8: both products of bytes by tiles, the softmax between them by AVX-512. The sums are
// those of every instruction set, so the bits are. Words (f16, bf16 caches) have no tiles: they stay with VNNI.
#include "simd/amx/gemm.h"
#include "simd/amx/tiles_or_emulated.h"
#include "simd/avx512_vnni/prefill_vnni.h"
#include "simd/kernels.h"
#include "simd/prefill_kernels.h"

namespace r1::simd {
namespace {

// Two tiles of queries by two of rows (or of elements): of four products and four loads, as many as hide behind each
// other (docs/performance.md, "AMX": 17.1 cycles a product of 16).
struct BytesByTiles : PrefillBytes512 {
  static constexpr int tile_queries = 32, tile_registers = 2;
  static constexpr std::uint32_t tile_k_bytes = 64, tile_rows = 16;

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
    for (std::uint32_t g = 0; g < n_groups; g += tile_k_bytes / 4, rows += tile_k_bytes, columns += tile_bytes) {
      Tiles::load<4>(rows, row_bytes);
      Tiles::load<6>(columns, 64);
      multiply<Product, 0, 4, 6>();
      if constexpr (two_columns) {
        Tiles::load<7>(columns + next_column, 64);
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
  static constexpr std::size_t tile_bytes = 1024;

  template <int Sums>
  static void begin(const std::int32_t* start, std::uint32_t row) {
    if (start == nullptr)
      Tiles::zero<Sums>();
    else
      Tiles::load<Sums>(start + std::size_t{row} * prefill_lanes, 64);
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

bool has_tiles(const PrefillShape& shape, std::uint32_t n) {
  if (shape.kind != PrefillKind::i8 || n < BytesByTiles::tile_rows) return false;
  for (int part = 0; part < shape.parts(); ++part) {
    if (shape.groups(part) * 4 % BytesByTiles::tile_k_bytes != 0) return false;
  }
  return true;
}

void amx_prefill_page(const PrefillShape& shape, const PrefillQueries& queries, std::uint32_t n,
                      std::uint32_t first_visible, std::uint32_t queries_per_token, const PrefillKeys& keys,
                      const PrefillValues& values, const PrefillState& state) {
  if (!has_tiles(shape, n)) {
    return prefill_page<Prefill512, BytesByVnni, WordsByVnni>(shape, queries, n, first_visible, queries_per_token, keys,
                                                              values, state);
  }
  const Tiles tiles(BytesByTiles::tile_rows, BytesByTiles::tile_k_bytes);
  prefill_page_of<Prefill512, BytesByTiles, BytesByVnni>(shape, queries, n, first_visible, queries_per_token, keys,
                                                         values, state);
}

}  // namespace

void use_amx_prefill_attention(Kernels& kernels) {
  kernels.prefill_page = amx_prefill_page;
}

}  // namespace r1::simd
