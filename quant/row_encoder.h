// One row: block scales, row scale, codes (FORMAT.md, "Encoder").
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "quant/block_search.h"
#include "quant/encode.h"
#include "quant/format.h"
#include "quant/scale_search.h"

namespace r1::quant {

// A row's result, in order of k, before packing.
struct EncodedRow {
  float row_scale = 0;
  std::vector<std::uint8_t> scales;  // [k_padded / 32]: S4 index or S8 byte
  std::vector<std::uint8_t> codes;   // [k_padded]

  void clear(std::uint32_t k_padded) {
    row_scale = 0;
    scales.assign(k_padded / block_k, 0);
    codes.assign(k_padded, 0);
  }
};

// What a row is divided by: the largest weight, so that no square overflows or vanishes; and, of the row so divided,
// the largest scale that any of its blocks wants. Both are 0 for a row that is zero.
struct RowScale {
  float largest = 0, wanted = 0;
};

class RowEncoder {
 public:
  RowEncoder(const FormatInfo& format, const std::array<float, 16>& s4_table, const EncodeOptions& options);

  // x, w [k_padded], zero behind the row's end. w ≥ 0.
  void encode(const float* x, const float* w, std::uint32_t k_padded, EncodedRow& row);

  // The first half of that: unit_row [k_padded] is x / largest.
  RowScale scale_row(const float* x, const float* w, std::uint32_t k_padded, float* unit_row);
  // Block scales are relative to this one: index 15 (S4) and byte 128 (S8) stand for 1.
  [[nodiscard]] float unit_of(const RowScale& scale) const { return scale.wanted * format_.unit; }
  // What a block's scale is guessed from: its weighted rms; for w8, which must not clip, the largest weight.
  float block_rms(const float* x, const float* w) const;
  ScaleSearch& scales() { return scales_; }

 private:
  float largest_wanted_scale(const float* unit_row, const float* w);
  float wanted_scale(const std::uint32_t* blocks, int n_blocks, const float* unit_row, const float* w, float floor);
  [[nodiscard]] float steps_down(int n) const;

  const FormatInfo& format_;
  ScaleSearch scales_;
  std::uint32_t n_blocks_ = 0;
  std::vector<float> unit_row_, rms_, bound_, tried_;
  std::vector<std::uint32_t> order_;
  std::vector<ScaledBlock> blocks_;
};

}  // namespace r1::quant
