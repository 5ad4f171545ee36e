// A KV cache in eight bits: how its pages are laid out, and the operations on them.
//
// A row has one scale per part (MLA: latent and rope part; else one): scale = max|x| / 127, code = x / scale to
// nearest. Keys lie as vpdpbusd takes them when its lanes are rows: four consecutive elements of 16 rows side by side.
// Values lie as it takes them when its lanes are elements: four consecutive rows of one element side by side, 16
// elements of all rows in one piece, which the first-level cache holds whatever the width. MLA's latents are both; they
// are kept as keys and turned into values once for all heads of a split (keys_to_values).
#pragma once

#include <cstddef>
#include <cstdint>

namespace r1::simd {

inline constexpr std::uint32_t q8_block_rows = 16;

struct Q8KeyShape {
  std::uint32_t page_rows = 0;  // a multiple of 16
  std::uint32_t width[2] = {};  // elements of the parts; width[1] may be 0

  [[nodiscard]] constexpr std::uint32_t quads(int part) const { return (width[part] + 3) / 4; }
  [[nodiscard]] constexpr std::uint32_t quads() const { return quads(0) + quads(1); }
  [[nodiscard]] constexpr int parts() const { return width[1] > 0 ? 2 : 1; }
  [[nodiscard]] constexpr std::size_t block_bytes() const { return std::size_t{quads()} * 4 * q8_block_rows; }
  [[nodiscard]] constexpr std::size_t code_bytes() const { return block_bytes() * (page_rows / q8_block_rows); }
  // Codes [page_rows / 16, quads, 16, 4] + 128, unsigned; then scales f32 [parts, page_rows].
  [[nodiscard]] constexpr std::size_t page_bytes() const {
    return code_bytes() + static_cast<std::size_t>(parts()) * page_rows * sizeof(float);
  }
  // What one row takes in a snapshot: its codes in order, padded to quads, then its scales.
  [[nodiscard]] constexpr std::size_t row_bytes() const {
    return std::size_t{quads()} * 4 + static_cast<std::size_t>(parts()) * sizeof(float);
  }
};

struct Q8ValueShape {
  std::uint32_t page_rows = 0;  // a multiple of 4
  std::uint32_t width = 0;

  [[nodiscard]] constexpr std::uint32_t padded_width() const { return (width + 15) / 16 * 16; }
  [[nodiscard]] constexpr std::size_t code_bytes() const { return std::size_t{page_rows} * padded_width(); }
  // All rows of 16 elements.
  [[nodiscard]] constexpr std::size_t strip_bytes() const { return std::size_t{page_rows} * 16; }
  // Codes [padded_width / 16, page_rows / 4, 16, 4], signed; then scales f32 [page_rows].
  [[nodiscard]] constexpr std::size_t page_bytes() const { return code_bytes() + page_rows * sizeof(float); }
  [[nodiscard]] constexpr std::size_t row_bytes() const { return width + sizeof(float); }
};

// Queries of several heads, quantized as keys are.
struct Q8Queries {
  const std::int8_t* q = nullptr;     // [n_heads, 4 · quads()] each part padded with zeros
  const float* scale = nullptr;       // [n_heads, 2]
  const std::int32_t* sum = nullptr;  // [n_heads, 2] Σ q of the part
};

// One row's quantization and its place in a page. x holds the parts one behind the other. A part with NaN or infinity
// gets the scale NaN, so that it is noticed where the result is used.
void store_q8_key(const Q8KeyShape& shape, const float* x, std::byte* page, std::uint32_t row);
void store_q8_value(const Q8ValueShape& shape, const float* x, std::byte* page, std::uint32_t row);

// One head's query; x as for keys. q [4 · quads()], scale [2], sum [2].
void quantize_q8_query(const Q8KeyShape& shape, const float* x, std::int8_t* q, float* scale, std::int32_t* sum);

// The first part of rows 0 … n_rows − 1 (rounded up to 16) of a page of keys, laid out as values.
// values: codes as in a page of Q8ValueShape{page_rows, width[0]}.
void keys_to_values(const Q8KeyShape& shape, const std::byte* page, std::uint32_t n_rows, std::int8_t* values);

// Snapshots: one row out of a page, and back.
void read_q8_key(const Q8KeyShape& shape, const std::byte* page, std::uint32_t row, std::byte* out);
void write_q8_key(const Q8KeyShape& shape, const std::byte* in, std::byte* page, std::uint32_t row);
void read_q8_value(const Q8ValueShape& shape, const std::byte* page, std::uint32_t row, std::byte* out);
void write_q8_value(const Q8ValueShape& shape, const std::byte* in, std::byte* page, std::uint32_t row);

// Entries of the kernel table. Integer sums are exact and every result has one order: all ISAs give the same bits.

// scores[h, j] = Σ over the parts of (Σ q·k) · query scale · key scale, for rows j < n_kv rounded up to 16.
//   scores [n_heads, lds]
using Q8QkFn = void (*)(const Q8KeyShape& shape, const Q8Queries& queries, std::uint32_t n_heads, const std::byte* page,
                        std::uint32_t n_kv, float* scores, std::size_t lds);
// The softmax of each head's scores as its part of an integer product: max[h] becomes the largest of it and the scores,
// p[j] = exp(scores[h, j] − max[h]), sum[h] = Σ p, weights[h, j] = p[j] · scale[j] in steps of step[h], j < n ≤ lds,
// and 0 up to the next multiple of 16. What rounding takes or adds is carried over to the weight eight places on, so
// that many small weights keep their sum. A step is NaN where a score or a scale is. scores [n_heads, lds] are
// overwritten up to a multiple of 16; scale [n].
using Q8WeightsFn = void (*)(float* scores, std::size_t lds, const float* scale, std::uint32_t n_heads, std::uint32_t n,
                             float* max, float* sum, std::uint8_t* weights, std::size_t ldw, float* step);
// out[h, i] = keep[h] · out[h, i] + step[h] · Σ_j weights[h, j] · values[j, i], j < n_kv rounded up to 4, i < width.
//   weights [n_heads, ldw]; values: codes of a page of that shape; step [n_heads]; out [n_heads, ldo]; keep [n_heads],
//   or null: nothing is kept, out is not read
using Q8PvFn = void (*)(const Q8ValueShape& shape, const std::uint8_t* weights, std::size_t ldw, const float* step,
                        std::uint32_t n_heads, const std::int8_t* values, std::uint32_t n_kv, const float* keep,
                        float* out, std::size_t ldo);

}  // namespace r1::simd
