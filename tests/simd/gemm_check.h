// What tests of batches share: the GEMV's product, and a check of part of a batch against the whole.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "gemm_tile.h"
#include "matrices.h"
#include "simd/kernels.h"

inline std::size_t format_index(const Matrix& m) {
  return static_cast<std::size_t>(m.view.format);
}

inline std::size_t ldy_of(const Matrix& m) {
  return std::size_t{m.view.layout.n_panels} * r1::quant::panel_rows + 3;
}

// All tokens and panels by a table's GEMV: [n_tokens, ldy].
inline std::vector<float> gemv_product(const r1::simd::Kernels& kernels, const Matrix& m,
                                       const r1::simd::Activations& x) {
  constexpr std::uint32_t step = r1::simd::max_gemv_tokens;
  const std::size_t ldy = ldy_of(m);
  std::vector<float> y(x.n_tokens * ldy);
  for (std::uint32_t t = 0; t < x.n_tokens; t += step) {
    kernels.gemv[format_index(m)](m.view, x, t, std::min(step, x.n_tokens - t), 0, m.view.layout.n_panels,
                                  y.data() + t * ldy, ldy);
  }
  return y;
}

// `multiply` over some tokens and panels writes the reference's values there, and nothing else.
inline void check_part(r1::simd::GemmFn multiply, const Matrix& m, const r1::simd::Activations& x,
                       const std::vector<float>& reference, const GemmTile& tile, std::uint32_t token_begin,
                       std::uint32_t n_tokens, std::uint32_t panel_begin, std::uint32_t panel_end) {
  CAPTURE(token_begin);
  CAPTURE(n_tokens);
  CAPTURE(panel_begin);
  CAPTURE(panel_end);
  const std::size_t ldy = ldy_of(m);
  std::vector<float> y(n_tokens * ldy, -7.0f), expected = y;
  const std::size_t row_begin = panel_begin * r1::quant::panel_rows,
                    row_end = std::min(panel_end * r1::quant::panel_rows, m.view.layout.rows);
  for (std::size_t t = 0; t < n_tokens; ++t) {
    for (std::size_t r = row_begin; r < row_end; ++r) expected[t * ldy + r] = reference[(token_begin + t) * ldy + r];
  }
  multiply(m.view, x, token_begin, n_tokens, panel_begin, panel_end, y.data(), ldy, tile.get());
  CHECK(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)) == 0);
}
