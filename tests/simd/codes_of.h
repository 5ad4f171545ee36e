// What a packed matrix holds, in plain code from the blob's bytes.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "quant/decode.h"
#include "simd/kernels.h"

// [rows, k_padded]: what it decodes to when all scales are 1.
inline std::vector<float> codes_of(const r1::simd::PackedMatrix& m) {
  using namespace r1;
  const std::size_t superchunk_bytes = quant::info(m.format).superchunk_bytes;
  // k is given as padded, so that padding is decoded too.
  const quant::BlobLayout layout = quant::blob_layout(m.format, m.rows(), m.layout.k_padded).value();
  std::vector<std::byte> ones(m.blob, m.blob + m.layout.bytes);
  std::vector<float> head(layout.panels_offset_bytes / 4, 1.0f);
  std::memcpy(ones.data(), head.data(), layout.panels_offset_bytes);
  if (quant::info(m.format).scale != quant::ScaleKind::s4) {
    for (std::size_t at = layout.panels_offset_bytes; at < layout.bytes; at += superchunk_bytes)
      std::fill_n(ones.begin() + static_cast<std::ptrdiff_t>(at), 64, std::byte{128});
  }
  std::vector<float> codes(std::size_t{m.rows()} * m.layout.k_padded);
  quant::decode_rows(m.format, layout, ones, 0, m.rows(), codes.data());
  return codes;
}

// Of a row's block b of a superchunk at `superchunk`.
inline float block_scale_of(const r1::simd::PackedMatrix& m, const std::byte* superchunk, std::uint32_t b,
                            std::uint32_t row) {
  if (r1::quant::info(m.format).scale != r1::quant::ScaleKind::s4)
    return r1::quant::s8_scale(std::to_integer<std::uint8_t>(superchunk[16 * b + row]));
  std::uint32_t words[2];
  std::memcpy(words, superchunk + 8 * b, sizeof words);
  return m.s4_table()[words[row & 1] >> (4 * (row >> 1)) & 15];
}
