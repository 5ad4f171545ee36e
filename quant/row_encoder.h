// One row: block scales, row scale, codes (FORMAT.md, "Encoder").
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "quant/block_search.h"
#include "quant/encode.h"
#include "quant/format.h"

namespace r1::quant {

// A row's result, in order of k, before packing.
struct EncodedRow {
  float row_scale = 0;
  std::vector<std::uint8_t> scales;  // [k_padded / 32]: S4 index or S8 byte
  std::vector<std::uint8_t> codes;   // [k_padded]
};

class RowEncoder {
 public:
  RowEncoder(const FormatInfo& format, const std::array<float, 16>& s4_table, const EncodeOptions& options);

  // x, w [k_padded], zero behind the row's end. w ≥ 0.
  void encode(const float* x, const float* w, std::uint32_t k_padded, EncodedRow& row);

 private:
  // Scales of the grid that a block may have: index first, first + stride …
  struct Round {
    int first = 0, stride = 1;
  };

  float block_rms(const float* x, const float* w) const;
  float largest_wanted_scale(const float* w);
  float wanted_scale(const std::uint32_t* blocks, int n_blocks, const float* w, float floor);
  [[nodiscard]] float steps_down(int n) const;
  [[nodiscard]] int nearest_scale(float target) const;
  template <class RoundOf>
  void try_scales(const float* w, const RoundOf& round_of, bool is_first, EncodedRow& row);
  void try_around_rms(const float* w, int first, int stride, bool is_first, EncodedRow& row);
  void try_range_around_rms(const float* w, int first, int end, EncodedRow& row);
  void try_around_best(const float* w, EncodedRow& row);

  const FormatInfo& format_;
  const std::array<float, 16>& s4_table_;
  int n_scales_;  // of one search
  std::unique_ptr<BlockSearch> search_;
  std::uint32_t n_blocks_ = 0;
  float unit_ = 0;  // block scales are relative to this one: index 15 (S4) and byte 128 (S8) stand for 1
  std::vector<float> unit_row_, rms_, bound_, scales_, cost_;
  std::vector<int> center_, first_, best_;
  std::vector<std::uint32_t> order_;
  std::vector<BlockQuery> queries_;
};

}  // namespace r1::quant
