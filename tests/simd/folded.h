// What a wide batch multiplies (simd/kernels.h, WideGemm), in plain code from the blob's bytes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "codes_of.h"
#include "quant/decode.h"
#include "simd/kernels.h"

struct Folded {
  std::uint32_t k_padded = 0;
  std::vector<int> w;        // [rows, k_padded]
  std::vector<float> scale;  // [rows, k_padded / 128]

  explicit Folded(const r1::simd::PackedMatrix& m) : k_padded(m.layout.k_padded) {
    using namespace r1;
    const std::size_t superchunk_bytes = quant::info(m.format).superchunk_bytes;
    const std::uint32_t rows = m.rows(), n_superchunks = k_padded / 128;
    const std::vector<float> codes = codes_of(m);

    w.resize(codes.size());
    scale.resize(std::size_t{rows} * n_superchunks);
    for (std::uint32_t r = 0; r < rows; ++r) {
      for (std::uint32_t c = 0; c < n_superchunks; ++c) {
        const std::byte* at = m.panel(r / 16) + c * superchunk_bytes;
        float block_scale[4], greatest = 0;
        for (std::uint32_t b = 0; b < 4; ++b) {
          block_scale[b] = block_scale_of(m, at, b, r % 16);
          greatest = std::max(greatest, std::fabs(block_scale[b]));
        }
        scale[std::size_t{r} * n_superchunks + c] = greatest * (128 / 258.0f);
        for (std::uint32_t i = 0; i < 128; ++i) {
          const std::size_t weight = std::size_t{r} * k_padded + c * 128 + i;
          const float units = greatest > 0 ? 258.0f / greatest : 0;
          const auto factor = static_cast<int>(std::nearbyint(block_scale[i / 32] * units));
          w[weight] = static_cast<int>(std::floor((codes[weight] * static_cast<float>(factor) + 64) / 128));
        }
      }
    }
  }

  // y[row] of one token, by the contract.
  [[nodiscard]] float product(const r1::simd::PackedMatrix& m, const r1::simd::Activations& x, std::uint32_t token,
                              std::uint32_t row) const {
    const std::uint32_t n_superchunks = k_padded / 128;
    float total = 0;
    for (std::uint32_t c = 0; c < n_superchunks; ++c) {
      int sum = 0;
      for (std::uint32_t i = 128 * c; i < 128 * c + 128; ++i)
        sum += w[std::size_t{row} * k_padded + i] * x.q[std::size_t{token} * x.q_stride + i];
      total = std::fma(static_cast<float>(sum) * scale[std::size_t{row} * n_superchunks + c],
                       x.scale[std::size_t{token} * n_superchunks + c], total);
    }
    return total * m.row_scale()[row];
  }
};
