// Internal to simd/: the panels of a row kernel, and results of a panel's 16 rows. Internal linkage, as in
// trellis_shape.h.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "simd/kernels.h"

namespace r1::simd {
namespace {

// Calls take.operator()<n>(panel, distance) for n panels `distance` apart at a time, each at the head of its own equal
// part of the panels at hand: so memory is read as N long streams. What they leave over comes one by one, n = 1.
template <std::uint32_t N, class Take>
inline void in_streams(std::uint32_t panel_begin, std::uint32_t panel_end, Take&& take) {
  const std::uint32_t part = (panel_end - panel_begin) / N;
  for (std::uint32_t i = 0; i < part; ++i) take.template operator()<N>(panel_begin + i, part);
  for (std::uint32_t panel = panel_begin + N * part; panel < panel_end; ++panel) take.template operator()<1>(panel, 0);
}

// total [n_tokens], each of the panel's rows → y, scaled by row
inline void store_rows(const PackedMatrix& w, std::uint32_t panel, const __m512* total, int n_tokens, float* y,
                       std::size_t ldy) {
  const std::uint32_t row = panel * quant::panel_rows, left = w.layout.rows - row;
  const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffffu : (1u << left) - 1);
  const __m512 row_scale = _mm512_loadu_ps(w.row_scale() + row);
  for (int t = 0; t < n_tokens; ++t) {
    _mm512_mask_storeu_ps(y + static_cast<std::size_t>(t) * ldy + row, mask, _mm512_mul_ps(total[t], row_scale));
  }
}

}  // namespace
}  // namespace r1::simd
