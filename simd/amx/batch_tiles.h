// Internal to simd/: how wide batches are cut for AMX's tiles. Internal linkage, as in trellis_shape.h.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "simd/amx/tiles_or_emulated.h"
#include "simd/tile_gemm.h"

namespace r1::simd {
namespace {

// Tiles of tokens that are nearly equal in size. The last one may begin among the tokens of the one before: so one
// configuration serves the call, and nothing behind the batch is read.
struct TokenTiles {
  std::uint32_t n_tokens, n, rows;

  explicit TokenTiles(std::uint32_t n_tokens_)
      : n_tokens(n_tokens_), n((n_tokens + 15) / 16), rows((n_tokens + n - 1) / n) {}

  [[nodiscard]] std::uint32_t begin(std::uint32_t tile) const { return smaller(tile * rows, n_tokens - rows); }
  [[nodiscard]] std::uint32_t first_new_row(std::uint32_t tile) const { return tile * rows - begin(tile); }
};

// A token's results of one panel → y, of which it has one row: fewer than sixteen of the last panel.
inline void store_panel(const PackedMatrix& w, std::uint32_t panel, __m512 results, float* y) {
  const std::uint32_t row = panel * quant::panel_rows, left = w.layout.rows - row;
  _mm512_mask_storeu_ps(y + row, static_cast<__mmask16>(left >= 16 ? 0xffffu : (1u << left) - 1), results);
}
// The scales of its rows.
inline __m512 panel_scale(const PackedMatrix& w, std::uint32_t panel) {
  return _mm512_loadu_ps(w.row_scale() + std::size_t{panel} * quant::panel_rows);
}

// Part `i` of `n` of a slab's codes, so that memory answers while products are computed.
inline void prefetch_part(const std::uint8_t* codes, std::size_t bytes, std::uint32_t i, std::uint32_t n) {
  const std::size_t lines = (bytes + 63) / 64;
  for (std::size_t line = lines * i / n; line < lines * (i + 1) / n; ++line)
    _mm_prefetch(reinterpret_cast<const char*>(codes + 64 * line), _MM_HINT_T1);
}

}  // namespace
}  // namespace r1::simd
