// Rows encoded together, block by block, each block aimed at what makes up for the errors before it (feedback.h).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "quant/encode.h"
#include "quant/feedback.h"
#include "quant/format.h"
#include "quant/row_encoder.h"

namespace r1::quant {

class FeedbackEncoder {
 public:
  FeedbackEncoder(const FormatInfo& format, const std::array<float, 16>& s4_table, const EncodeOptions& options,
                  const Feedback& feedback);

  // x [rows.size(), k_padded], w [k_padded], both zero behind the row's end; at most feedback_rows rows. Afterwards
  // `targets` has what the blocks of each row were aimed at.
  void encode(const float* x, const float* w, std::uint32_t k_padded, std::span<EncodedRow> rows);
  [[nodiscard]] const float* targets(std::size_t row) const { return targets_.data() + row * stride_; }

 private:
  void search_block(std::uint32_t b, const float* w, std::span<EncodedRow> rows);
  void find_errors(std::uint32_t b, std::span<const EncodedRow> rows);
  void feed_forward(std::uint32_t b, std::size_t n_rows);

  const FormatInfo& format_;
  const Feedback& feedback_;
  RowEncoder row_encoder_;
  std::uint32_t k_padded_ = 0;
  std::size_t stride_ = 0;        // of targets: two lines more than a row, so that rows do not share the cache's sets
  std::vector<float> unit_rows_;  // [rows, k_padded]
  std::vector<float> targets_;    // [rows, stride]
  std::vector<RowScale> row_scales_;
  std::vector<std::size_t> active_;       // rows that are not zero
  std::vector<ScaledBlock> blocks_;       // of those
  float errors_[block_k][feedback_rows];  // of the block in hand; zero for rows that are none
};

}  // namespace r1::quant
