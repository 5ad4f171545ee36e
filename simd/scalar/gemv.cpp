#include "simd/scalar/gemv.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "quant/fp8.h"
#include "simd/gemm_by_gemv.h"

namespace r1::simd {
namespace {

using quant::Format;
using quant::FormatInfo;

// Integer weights of one block of 32 k of one row.
void block_values(const FormatInfo& format, const std::uint8_t* codes, std::uint32_t r, int* values) {
  if (!format.is_trellis()) {
    for (std::uint32_t k = 0; k < quant::block_k; ++k) values[k] = codes[k / 4 * 64 + r * 4 + k % 4] - 128;
    return;
  }
  const std::size_t group_bytes = format.group_bytes;
  for (std::uint32_t g = 0; g < quant::block_k / format.group_weights; ++g) {
    std::uint64_t string = 0;
    std::memcpy(&string, codes + g * 16 * group_bytes + (r & 1) * 8 * group_bytes + (r >> 1) * group_bytes,
                group_bytes);
    const int n_bits = 8 * format.group_bytes;
    for (int t = 0, offset = 0; t < format.group_weights; ++t) {
      // The string is circular: what stands before the window follows behind its end.
      std::uint64_t window = string >> offset;
      if (offset + 6 > n_bits) window |= string << (n_bits - offset);
      *values++ = format.codebook[window & 63];
      offset += format.steps[t & 1];
    }
  }
}

float block_scale(const FormatInfo& format, const PackedMatrix& w, const std::uint8_t* superchunk, std::uint32_t b,
                  std::uint32_t r) {
  if (format.scale == quant::ScaleKind::s8) return quant::s8_scale(superchunk[16 * b + r]);
  const std::uint8_t pair = superchunk[8 * b + 4 * (r & 1) + (r >> 2)];
  return w.s4_table()[r >> 1 & 1 ? pair >> 4 : pair & 15];
}

void gemv_packed(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
                 std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy) {
  const FormatInfo& format = quant::info(w.format);
  const std::size_t scale_bytes = format.scale == quant::ScaleKind::s8 ? 64 : 32;
  const std::uint32_t n_superchunks = w.layout.k_padded / quant::superchunk_k;
  const std::uint32_t row_end = std::min(panel_end * quant::panel_rows, w.layout.rows);
  for (std::uint32_t row = panel_begin * quant::panel_rows; row < row_end; ++row) {
    const std::uint32_t r = row % quant::panel_rows;
    const auto* panel = reinterpret_cast<const std::uint8_t*>(w.panel(row / quant::panel_rows));
    float total[max_gemv_tokens] = {};
    for (std::uint32_t c = 0; c < n_superchunks; ++c) {
      const std::uint8_t* superchunk = panel + std::size_t{c} * format.superchunk_bytes;
      float acc[max_gemv_tokens] = {};
      for (std::uint32_t b = 0; b < 4; ++b) {
        int values[quant::block_k];
        block_values(format, superchunk + scale_bytes + b * format.block_bytes, r, values);
        const float scale = block_scale(format, w, superchunk, b, r);
        for (std::uint32_t t = 0; t < n_tokens; ++t) {
          const std::int8_t* q =
              x.q + std::size_t{token_begin + t} * x.q_stride + c * quant::superchunk_k + b * quant::block_k;
          int dot = 0;
          for (std::uint32_t k = 0; k < quant::block_k; ++k) dot += values[k] * q[k];
          acc[t] = std::fma(static_cast<float>(dot), scale, acc[t]);
        }
      }
      for (std::uint32_t t = 0; t < n_tokens; ++t) {
        total[t] = std::fma(acc[t], x.scale[std::size_t{token_begin + t} * n_superchunks + c], total[t]);
      }
    }
    for (std::uint32_t t = 0; t < n_tokens; ++t) y[t * ldy + row] = total[t] * w.row_scale()[row];
  }
}

// bf16 and f32: eight partial sums by k mod 8, so that eight lanes can do the same.
void gemv_plain(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
                std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy) {
  const std::uint32_t row_end = std::min(panel_end * quant::panel_rows, w.layout.rows), k_end = w.layout.k;
  for (std::uint32_t row = panel_begin * quant::panel_rows; row < row_end; ++row) {
    for (std::uint32_t t = 0; t < n_tokens; ++t) {
      const float* in = x.x + std::size_t{token_begin + t} * x.k_padded;
      float sums[8] = {};
      for (std::uint32_t k = 0; k < k_end; ++k) {
        float value = 0;
        if (w.format == Format::f32) {
          std::memcpy(&value, w.blob + (std::size_t{row} * k_end + k) * 4, 4);
        } else {
          std::uint16_t bits = 0;
          std::memcpy(&bits, w.blob + (std::size_t{row} * k_end + k) * 2, 2);
          value = quant::bf16_to_f32(bits);
        }
        sums[k % 8] = std::fma(value, in[k], sums[k % 8]);
      }
      y[t * ldy + row] = ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
    }
  }
}

}  // namespace

void use_scalar_gemv(GemvFn* table) {
  for (const Format format : quant::all_formats)
    table[static_cast<int>(format)] = quant::info(format).is_packed() ? gemv_packed : gemv_plain;
}

void use_scalar_gemm(GemmFn* table) {
  for (const Format format : quant::all_formats) {
    table[static_cast<int>(format)] =
        quant::info(format).is_packed() ? gemm_by_gemv<gemv_packed> : gemm_by_gemv<gemv_plain>;
  }
}

bool quantize_row_scalar(const Activations& view, std::uint32_t token) {
  float* x = ActivationBuffer::x_row(view, token);
  std::fill(x + view.k, x + view.k_padded, 0.0f);
  const std::size_t row = std::size_t{token} * view.k_padded, q_row = std::size_t{token} * view.q_stride;
  auto* q = const_cast<std::int8_t*>(view.q) + q_row;
  auto* q_step2 = const_cast<std::int8_t*>(view.q_step2) + q_row;
  auto* q_step4 = const_cast<std::int8_t*>(view.q_step4) + q_row;
  auto* scale = const_cast<float*>(view.scale) + row / quant::superchunk_k;
  auto* block_sum = const_cast<std::int32_t*>(view.block_sum) + row / quant::block_k;
  const bool finite = std::all_of(x, x + view.k, [](float v) { return std::isfinite(v); });
  for (std::uint32_t c = 0; c < view.k_padded; c += quant::superchunk_k) {
    float largest = 0;
    for (std::uint32_t k = c; k < c + quant::superchunk_k; ++k) largest = std::max(largest, std::fabs(x[k]));
    const float s = finite ? largest / 127 : 0;
    scale[c / quant::superchunk_k] = s;
    for (std::uint32_t k = c; k < c + quant::superchunk_k; ++k) {
      // A scale that underflowed to zero or a subnormal must not push the quotient past 127.
      q[k] = s > 0 ? static_cast<std::int8_t>(std::clamp(std::nearbyint(x[k] / s), -127.0f, 127.0f)) : std::int8_t{0};
    }
  }
  for (std::uint32_t b = 0; b < view.k_padded; b += quant::block_k) {
    std::int32_t sum = 0;
    for (std::uint32_t i = 0; i < quant::block_k; ++i) {
      sum += q[b + i];
      q_step2[b + i] = q[b + 4 * (i % 8) + i / 8];
      q_step4[b + i] = q[b + i / 16 * 16 + 2 * (i % 8) + i / 8 % 2];
    }
    block_sum[b / quant::block_k] = sum;
  }
  return finite;
}

}  // namespace r1::simd
