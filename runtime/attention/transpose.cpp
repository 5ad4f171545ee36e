#include "runtime/attention/transpose.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "quant/decode.h"

namespace r1::rt {
namespace {

using quant::Format;

constexpr std::uint32_t panel_rows = quant::panel_rows, block_k = quant::block_k;
constexpr std::uint32_t superchunk_blocks = quant::superchunk_k / block_k;
constexpr std::size_t scale_bytes = panel_rows;  // S8, of a block

// The smallest S8 byte whose scale is at least x ≤ 1.
std::uint8_t s8_byte_above(float x) {
  constexpr std::uint32_t least_bits = 119u << 23, step_bits = 1u << 19;
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return bits <= least_bits ? std::uint8_t{0} : static_cast<std::uint8_t>((bits - least_bits + step_bits - 1) >> 19);
}

// Rows of a w8 blob → f32, the values of quant::decode_rows: a prefill turns every head's W^UK upright once per batch,
// which the general decoder, weight by weight, makes a twentieth of a short prompt.
void decode_w8(const simd::PackedMatrix& w, float* out) {
  const quant::FormatInfo& w8 = quant::info(Format::w8);
  const std::uint32_t rows = w.rows(), k = w.k();
  for (std::uint32_t panel = 0; panel < w.layout.n_panels; ++panel) {
    const std::uint32_t first_row = panel * panel_rows, n_rows = std::min(panel_rows, rows - first_row);
    const float* row_scale = w.row_scale() + first_row;
    for (std::uint32_t block = 0; block * block_k < k; ++block) {
      const std::byte* superchunk = w.panel(panel) + std::size_t{block / superchunk_blocks} * w8.superchunk_bytes;
      const std::byte* scales = superchunk + block % superchunk_blocks * scale_bytes;
      const auto* codes = reinterpret_cast<const std::uint8_t*>(
          superchunk + superchunk_blocks * scale_bytes + std::size_t{block % superchunk_blocks} * w8.block_bytes);
      const std::uint32_t first_k = block * block_k, n_k = std::min(block_k, k - first_k);
      for (std::uint32_t r = 0; r < n_rows; ++r) {
        const float scale = quant::s8_scale(static_cast<std::uint8_t>(scales[r]));
        float values[block_k];
        for (std::uint32_t quad = 0; quad < block_k / 4; ++quad) {
          for (std::uint32_t i = 0; i < 4; ++i) {
            const int code = codes[quad * 64 + r * 4 + i] - 128;
            values[quad * 4 + i] = row_scale[r] * (scale * static_cast<float>(code));
          }
        }
        std::memcpy(out + std::size_t{first_row + r} * k + first_k, values, n_k * sizeof(float));
      }
    }
  }
}

// x to the nearest whole number, ties to even, |x| < 2^22: the low bits of a float whose last place counts ones.
std::int32_t nearest(float x) {
  constexpr float ones = 12582912.0f;  // 1.5 · 2^23
  return std::bit_cast<std::int32_t>(x + ones) - std::bit_cast<std::int32_t>(ones);
}

// Sixteen columns of 32 rows of x [k, n], with zeros where x ends.
struct ColumnBlock {
  float x[block_k][panel_rows];

  ColumnBlock(const float* from, std::uint32_t n, std::uint32_t n_columns, std::uint32_t n_rows) {
    if (n_columns < panel_rows || n_rows < block_k) std::memset(x, 0, sizeof x);
    for (std::uint32_t i = 0; i < n_rows; ++i) std::memcpy(x[i], from + std::size_t{i} * n, n_columns * sizeof(float));
  }
  void largest(float* out) const {  // [panel_rows]
    std::fill_n(out, panel_rows, 0.0f);
    for (const auto& row : x) {
      for (std::uint32_t r = 0; r < panel_rows; ++r) out[r] = std::max(out[r], std::fabs(row[r]));
    }
  }
};

// Panel `panel` of the transpose: its rows are columns 16 · panel … of x [k, n].
void encode_panel(const float* x, std::uint32_t n, std::uint32_t k, std::uint32_t panel, float* row_scale,
                  std::byte* out) {
  const std::uint32_t n_blocks = (k + block_k - 1) / block_k, n_rows = std::min(panel_rows, n - panel * panel_rows);
  const quant::FormatInfo& w8 = quant::info(Format::w8);
  const auto block_of = [&](std::uint32_t block) {
    return ColumnBlock(x + std::size_t{block} * block_k * n + std::size_t{panel} * panel_rows, n, n_rows,
                       std::min(block_k, k - block * block_k));
  };
  float largest[panel_rows], most[panel_rows] = {};
  for (std::uint32_t block = 0; block < n_blocks; ++block) {
    block_of(block).largest(largest);
    for (std::uint32_t r = 0; r < panel_rows; ++r) most[r] = std::max(most[r], largest[r]);
  }
  for (std::uint32_t r = 0; r < n_rows; ++r) row_scale[r] = most[r] / 127;
  for (std::uint32_t block = 0; block < n_blocks; ++block) {
    const ColumnBlock columns = block_of(block);
    columns.largest(largest);
    std::byte* superchunk = out + std::size_t{block / superchunk_blocks} * w8.superchunk_bytes;
    std::byte* scales = superchunk + block % superchunk_blocks * scale_bytes;
    std::byte* codes =
        superchunk + superchunk_blocks * scale_bytes + std::size_t{block % superchunk_blocks} * w8.block_bytes;
    float per_step[panel_rows] = {};
    for (std::uint32_t r = 0; r < n_rows; ++r) {
      const std::uint8_t byte = most[r] > 0 ? s8_byte_above(largest[r] / most[r]) : std::uint8_t{0};
      scales[r] = static_cast<std::byte>(byte);
      const float step = row_scale[r] * quant::s8_scale(byte);
      per_step[r] = step > 0 ? 1.0f / step : 0.0f;
    }
    for (std::uint32_t quad = 0; quad < block_k / 4; ++quad) {
      std::uint32_t fours[panel_rows] = {};
      for (std::uint32_t i = 0; i < 4; ++i) {
        for (std::uint32_t r = 0; r < panel_rows; ++r) {
          const auto code = static_cast<std::uint32_t>(nearest(columns.x[4 * quad + i][r] * per_step[r]) + 128);
          fours[r] |= code << (8 * i);
        }
      }
      std::memcpy(codes + std::size_t{quad} * sizeof fours, fours, sizeof fours);
    }
  }
}

}  // namespace

std::size_t transposed_bytes(std::uint32_t rows, std::uint32_t k) {
  return std::max(quant::blob_layout(Format::w8, k, rows)->bytes, quant::blob_layout(Format::f32, k, rows)->bytes);
}

simd::PackedMatrix transpose(const simd::PackedMatrix& w, float* rows_f32, std::byte* blob) {
  const std::uint32_t rows = w.rows(), k = w.k();
  if (w.format == Format::w8) {
    decode_w8(w, rows_f32);
  } else {
    quant::decode_rows(w.format, w.layout, {w.blob, w.layout.bytes}, 0, rows, rows_f32);
  }
  const Format format = quant::info(w.format).is_packed() ? Format::w8 : Format::f32;
  simd::PackedMatrix upright{format, *quant::blob_layout(format, k, rows), blob};
  if (format == Format::f32) {
    auto* out = reinterpret_cast<float*>(blob);
    for (std::uint32_t row = 0; row < rows; ++row) {
      for (std::uint32_t i = 0; i < k; ++i) out[std::size_t{i} * rows + row] = rows_f32[std::size_t{row} * k + i];
    }
    return upright;
  }
  std::memset(blob, 0, upright.layout.bytes);  // padding
  auto* row_scale = reinterpret_cast<float*>(blob + upright.layout.row_scale_offset_bytes);
  for (std::uint32_t panel = 0; panel < upright.layout.n_panels; ++panel) {
    encode_panel(rows_f32, k, rows, panel, row_scale + panel * panel_rows,
                 blob + upright.layout.panels_offset_bytes + panel * upright.layout.panel_bytes);
  }
  return upright;
}

}  // namespace r1::rt
