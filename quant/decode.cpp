#include "quant/decode.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "quant/fp8.h"

namespace r1::quant {
namespace {

// What stands before each weight of a group, in bits.
std::array<int, 32> group_offsets(const FormatInfo& format) {
  std::array<int, 32> offsets{};
  for (int t = 0, offset = 0; t < format.group_weights; ++t) {
    offsets[static_cast<std::size_t>(t)] = offset;
    offset += format.steps[t & 1];
  }
  return offsets;
}

// Six bits of a circular bit string of n_bits, from `offset` on, lowest first.
int circular_code(const std::uint8_t* string, int offset, int n_bits) {
  int code = 0;
  for (int j = 0; j < 6; ++j) {
    const int bit = (offset + j) % n_bits;
    code |= (string[bit >> 3] >> (bit & 7) & 1) << j;
  }
  return code;
}

float load_f32(const std::byte* p) {
  float x = 0;
  std::memcpy(&x, p, sizeof x);
  return x;
}

float block_scale(const FormatInfo& format, const std::byte* blob, const std::uint8_t* superchunk, std::uint32_t block,
                  std::uint32_t row) {
  if (format.scale == ScaleKind::s8) return s8_scale(superchunk[16 * block + row]);
  const std::uint8_t* scales = superchunk + 8 * block + 4 * (row & 1);
  const std::uint32_t nibble = row >> 1;
  const std::uint32_t index = scales[nibble >> 1] >> (4 * (nibble & 1)) & 15;
  return load_f32(blob + index * sizeof(float));
}

void decode_packed_row(const FormatInfo& format, const BlobLayout& layout, const std::byte* blob, std::uint32_t row,
                       const std::array<int, 32>& offsets, float* out) {
  const std::uint32_t r = row % panel_rows;
  const float row_scale = load_f32(blob + layout.row_scale_offset_bytes + row * sizeof(float));
  const auto* panel = reinterpret_cast<const std::uint8_t*>(blob) + layout.panels_offset_bytes +
                      (row / panel_rows) * layout.panel_bytes;
  const std::size_t scale_bytes = format.scale == ScaleKind::s8 ? 64 : 32;
  for (std::uint32_t k = 0; k < layout.k; ++k) {
    const std::uint8_t* superchunk = panel + std::size_t{k / superchunk_k} * format.superchunk_bytes;
    const std::uint32_t block = k % superchunk_k / block_k, in_block = k % block_k;
    const std::uint8_t* codes = superchunk + scale_bytes + block * format.block_bytes;
    float value = 0;
    if (format.is_trellis()) {
      const std::uint32_t group = in_block / format.group_weights, t = in_block % format.group_weights;
      const std::size_t group_bytes = format.group_bytes;
      const std::uint8_t* string =
          codes + group * 16 * group_bytes + (r & 1) * 8 * group_bytes + (r >> 1) * group_bytes;
      value = format.codebook[circular_code(string, offsets[t], 8 * format.group_bytes)];
    } else {
      value = static_cast<float>(codes[(in_block / 4) * 64 + r * 4 + in_block % 4] - 128);
    }
    out[k] = row_scale * (block_scale(format, blob, superchunk, block, r) * value);
  }
}

}  // namespace

void decode_rows(Format format_id, const BlobLayout& layout, std::span<const std::byte> blob, std::uint32_t row_begin,
                 std::uint32_t row_end, float* out) {
  const FormatInfo& format = info(format_id);
  const std::array<int, 32> offsets = format.is_trellis() ? group_offsets(format) : std::array<int, 32>{};
  for (std::uint32_t row = row_begin; row < row_end; ++row, out += layout.k) {
    if (format.is_packed()) {
      decode_packed_row(format, layout, blob.data(), row, offsets, out);
      continue;
    }
    const std::byte* source = blob.data() + std::size_t{row} * layout.k * format.group_bytes;
    if (format_id == Format::f32) {
      std::memcpy(out, source, layout.k * sizeof(float));
      continue;
    }
    for (std::uint32_t k = 0; k < layout.k; ++k) {
      std::uint16_t bits = 0;
      std::memcpy(&bits, source + k * sizeof bits, sizeof bits);
      out[k] = bf16_to_f32(bits);
    }
  }
}

}  // namespace r1::quant
