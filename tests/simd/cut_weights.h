// What a wide batch multiplies (simd/kernels.h, WideGemm), in plain code from the blob's bytes.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "codes_of.h"
#include "quant/decode.h"
#include "quant/fp8.h"
#include "simd/kernels.h"

struct CutWeights {
  std::uint32_t k_padded = 0;
  std::vector<float> w;  // [rows, k_padded] without the scales of rows

  explicit CutWeights(const r1::simd::PackedMatrix& m) : k_padded(m.layout.k_padded) {
    using namespace r1;
    const float bias = m.format == quant::Format::w8 ? 128 : 64;
    const std::size_t superchunk_bytes = quant::info(m.format).superchunk_bytes;
    const std::uint32_t rows = m.rows();
    const std::vector<float> codes = codes_of(m);

    w.resize(codes.size());
    for (std::uint32_t r = 0; r < rows; ++r) {
      for (std::uint32_t k = 0; k < k_padded; ++k) {
        const std::byte* scales = m.panel(r / 16) + k / 128 * superchunk_bytes;
        const std::uint32_t b = k / 32 % 4;
        const float scale = block_scale_of(m, scales, b, r % 16);
        const std::size_t at = std::size_t{r} * k_padded + k;
        const float offset = scale * -(32768 + bias);
        const float weight = std::fma(32768 + bias + codes[at], scale, offset);
        w[at] = std::bit_cast<float>(std::bit_cast<std::uint32_t>(weight) & 0xffff0000u);
      }
    }
  }

  // y[row] of one token and Σ |w · x|, by the contract but for the order of sums. x: the token's, as bf16.
  [[nodiscard]] double product(const r1::simd::PackedMatrix& m, const std::vector<float>& x, std::uint32_t row,
                               double* magnitude) const {
    double total = 0;
    *magnitude = 0;
    for (std::uint32_t k = 0; k < m.k(); ++k) {
      const double term = static_cast<double>(w[std::size_t{row} * k_padded + k]) * x[k];
      total += term;
      *magnitude += std::fabs(term);
    }
    const double scale = static_cast<double>(m.row_scale()[row]) * r1::simd::wide_cut_correction;
    *magnitude *= std::fabs(scale);
    return total * scale;
  }
};
