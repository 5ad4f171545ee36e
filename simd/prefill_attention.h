// Attention of many queries over a page of keys and values, both products in integers. A page's softmax is folded into
// the state of what came before it (arXiv 2205.14135), so any context runs in the same scratch; what a query gets
// depends on the rows it sees alone, not on the queries beside it.
//
// Two widths. i8: what a q8 cache holds; vpdpbusd. i16: finer than f16 is; vpdpwssd or vpmaddwd, a quarter of the steps
// of f32. A key or query of i16 is scaled by its norm, so that no sum of products can leave 32 bits (Cauchy-Schwarz).
//
// Integer sums are exact and every float operation has one order: all ISAs give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace r1::simd {

inline constexpr std::uint32_t prefill_page_rows = 256;
inline constexpr std::uint32_t prefill_block_rows = 16;

enum class PrefillKind : std::uint8_t { i8, i16 };

// A unit of tiles wants other operands: keys of i8 without what makes them unsigned, and words in two planes of bytes,
// of a query, a block of keys or a strip of values each: first the upper ones (signed), then the lower (unsigned).
//
// A group is what a dot product instruction takes at a time: 4 bytes, of four elements (i8, planes of words) or two.
[[nodiscard]] constexpr std::uint32_t prefill_group_elements(PrefillKind kind) {
  return kind == PrefillKind::i8 ? 4 : 2;
}
[[nodiscard]] constexpr std::uint32_t prefill_groups(PrefillKind kind, std::uint32_t n) {
  return (n + prefill_group_elements(kind) - 1) / prefill_group_elements(kind);
}

struct PrefillShape {
  PrefillKind kind = PrefillKind::i8;
  std::uint32_t width[2] = {};  // elements of a key's parts, each with a scale of its own; width[1] may be 0
  std::uint32_t d_v = 0;        // elements of a value
  bool tiles = false;           // operands for tiles, where may_have_tiles

  [[nodiscard]] constexpr bool planes() const { return tiles && kind == PrefillKind::i16; }
  [[nodiscard]] constexpr int parts() const { return width[1] > 0 ? 2 : 1; }
  [[nodiscard]] constexpr std::uint32_t groups(int part) const { return prefill_groups(kind, width[part]); }
  [[nodiscard]] constexpr std::size_t query_bytes() const { return (std::size_t{groups(0)} + groups(1)) * 4; }
  [[nodiscard]] constexpr std::uint32_t padded_d_v() const { return (d_v + 15) / 16 * 16; }
  // Of a page whose rows lie in blocks of this part alone.
  [[nodiscard]] constexpr std::size_t key_block_bytes(int part) const {
    return std::size_t{groups(part)} * 4 * prefill_block_rows;
  }
  [[nodiscard]] constexpr std::size_t key_bytes(int part) const {
    return key_block_bytes(part) * (prefill_page_rows / prefill_block_rows);
  }
  // All rows of 16 elements of the values.
  [[nodiscard]] constexpr std::size_t value_strip_bytes() const {
    return std::size_t{prefill_page_rows} / prefill_group_elements(kind) * 64;
  }
  [[nodiscard]] constexpr std::size_t value_bytes() const { return value_strip_bytes() * (padded_d_v() / 16); }
};

inline constexpr std::size_t tiles_most_query_bytes = 1024;
inline constexpr std::uint32_t tiles_most_d_v = 256;

[[nodiscard]] constexpr bool may_have_tiles(const PrefillShape& shape) {
  return shape.width[0] % 64 == 0 && shape.width[1] % 64 == 0 && shape.d_v % 32 == 0 &&
         shape.query_bytes() <= tiles_most_query_bytes && shape.d_v <= tiles_most_d_v;
}

// The page's keys. codes[part] [16 blocks, groups, 16 rows, 4 bytes]; i8: + 128, unsigned, but for tiles.
// Planes: [16 blocks, 2, width / 4, 16 rows, 4 elements].
struct PrefillKeys {
  const std::byte* codes[2] = {};
  std::size_t block_bytes[2] = {};  // from block to block
  const float* scale[2] = {};       // [page rows]
};

// The page's values. codes [padded d_v / 16, page rows / group elements, 16, 4 bytes]: one element of the rows of a
// group. Both layouts are those of a q8 cache. Planes: [padded d_v / 16, 2, page rows / 4, 16, 4 rows].
struct PrefillValues {
  const std::byte* codes = nullptr;
  const float* scale = nullptr;      // [page rows]
  const float* scale_max = nullptr;  // [page rows] of this row and those before it
};

// scale and start have two places a row, one for each part. The scales hold the softmax's factor and log2(e).
struct PrefillQueries {
  const std::byte* codes = nullptr;  // [n, row_bytes]; planes: of each part [2, width]
  std::size_t row_bytes = 0;
  const float* scale = nullptr;  // [n, 2]
  const std::int32_t* start =
      nullptr;  // [n, 2] of sums of products: what takes the keys' 128 out of them, or 0; tiles: not read
};

// Before the first page: max prefill_no_max, sum and out 0. In the end out / sum is the attention.
struct PrefillState {
  float* max = nullptr;  // [n] of the scores, in units of log 2
  float* sum = nullptr;  // [n]
  float* out = nullptr;  // [n, ldo]
  std::size_t ldo = 0;
};
inline constexpr float prefill_no_max = -1e30f;
// Words: 32-bit sums of a page hold what weights of this sum times the largest values give.
inline constexpr float prefill_largest_word_value = 4095, prefill_word_weights = 524000;

// Query r sees the page's first min(page rows, first_visible + r / queries_per_token) rows; first_visible ≥ 1. Rows
// behind the last that is seen may hold anything.
using PrefillPageFn = void (*)(const PrefillShape& shape, const PrefillQueries& queries, std::uint32_t n,
                               std::uint32_t first_visible, std::uint32_t queries_per_token, const PrefillKeys& keys,
                               const PrefillValues& values, const PrefillState& state);

// f32 rows → codes and scales; one instance for all instruction sets.
// x [n_rows, ldx], `part` of the keys of rows first_row …; codes and scale are those of the page.
void pack_prefill_keys(const PrefillShape& shape, int part, const float* x, std::size_t ldx, std::uint32_t first_row,
                       std::uint32_t n_rows, std::byte* codes, std::size_t block_bytes, float* scale);
// x [n_rows, ldx] rows 0 … of the page
void pack_prefill_values(const PrefillShape& shape, const float* x, std::size_t ldx, std::uint32_t n_rows,
                         std::byte* codes, float* scale);
// scale_max[i] = the largest of scale[0 … i]; NaN from the first NaN on.
void prefill_scale_max(const float* scale, std::uint32_t n_rows, float* scale_max);
// One query of both parts: x [width[0] + width[1]], factor what every score is multiplied by.
void pack_prefill_query(const PrefillShape& shape, const float* x, float factor, std::byte* codes, float* scale,
                        std::int32_t* start);

}  // namespace r1::simd
