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

// Panel `panel` of the transpose: its rows are columns 16 · panel … of x [k, n].
void encode_panel(const float* x, std::uint32_t n, std::uint32_t k, std::uint32_t panel, float* row_scale,
                  std::byte* out) {
  const std::uint32_t n_blocks = (k + block_k - 1) / block_k, n_rows = std::min(panel_rows, n - panel * panel_rows);
  const quant::FormatInfo& w8 = quant::info(Format::w8);
  const float* column = x + std::size_t{panel} * panel_rows;
  const auto largest_of = [&](std::uint32_t block, float* largest) {
    std::fill_n(largest, panel_rows, 0.0f);
    for (std::uint32_t i = block * block_k; i < std::min(k, (block + 1) * block_k); ++i) {
      for (std::uint32_t r = 0; r < n_rows; ++r)
        largest[r] = std::max(largest[r], std::fabs(column[std::size_t{i} * n + r]));
    }
  };
  float largest[panel_rows], most[panel_rows] = {};
  for (std::uint32_t block = 0; block < n_blocks; ++block) {
    largest_of(block, largest);
    for (std::uint32_t r = 0; r < panel_rows; ++r) most[r] = std::max(most[r], largest[r]);
  }
  for (std::uint32_t r = 0; r < n_rows; ++r) row_scale[r] = most[r] / 127;
  for (std::uint32_t block = 0; block < n_blocks; ++block) {
    largest_of(block, largest);
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
    const std::uint32_t first = block * block_k, count = std::min(block_k, k - first);
    for (std::uint32_t i = 0; i < count; ++i) {
      std::byte* to = codes + std::size_t{i / 4} * 64 + i % 4;
      const float* from = column + std::size_t{first + i} * n;
      for (std::uint32_t r = 0; r < n_rows; ++r)
        to[r * 4] = static_cast<std::byte>(static_cast<int>(std::lrintf(from[r] * per_step[r])) + 128);
    }
  }
}

}  // namespace

std::size_t transposed_bytes(std::uint32_t rows, std::uint32_t k) {
  return std::max(quant::blob_layout(Format::w8, k, rows)->bytes, quant::blob_layout(Format::f32, k, rows)->bytes);
}

simd::PackedMatrix transpose(const simd::PackedMatrix& w, float* rows_f32, std::byte* blob) {
  const std::uint32_t rows = w.rows(), k = w.k();
  quant::decode_rows(w.format, w.layout, {w.blob, w.layout.bytes}, 0, rows, rows_f32);
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
