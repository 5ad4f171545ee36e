#include "quant/feedback_encoder.h"

#include <algorithm>

#include "quant/tile_product.h"

namespace r1::quant {

FeedbackEncoder::FeedbackEncoder(const FormatInfo& format, const std::array<float, 16>& s4_table,
                                 const EncodeOptions& options, const Feedback& feedback)
    : format_(format), feedback_(feedback), row_encoder_(format, s4_table, options) {}

void FeedbackEncoder::encode(const float* x, const float* w, std::uint32_t k_padded, std::span<EncodedRow> rows) {
  k_padded_ = k_padded;
  stride_ = k_padded + block_k;
  const std::size_t n_rows = rows.size();
  // Tiles of rows are whole: those behind the last row have targets too, which nobody reads.
  const std::size_t n_rows_padded = (n_rows + tile_rows - 1) / tile_rows * tile_rows;
  unit_rows_.assign(n_rows * k_padded, 0.0f);
  targets_.assign(n_rows_padded * stride_, 0.0f);
  row_scales_.resize(n_rows);
  active_.clear();
  for (std::size_t r = 0; r < n_rows; ++r) {
    rows[r].clear(k_padded);
    row_scales_[r] = row_encoder_.scale_row(x + r * k_padded, w, k_padded, unit_rows_.data() + r * k_padded);
    if (row_scales_[r].largest == 0) continue;
    rows[r].row_scale = row_encoder_.unit_of(row_scales_[r]) * row_scales_[r].largest;
    active_.push_back(r);
  }
  for (std::size_t r = 0; r < n_rows; ++r)
    std::copy_n(unit_rows_.data() + r * k_padded, k_padded, targets_.data() + r * stride_);
  if (active_.empty()) return;
  for (auto& of_column : errors_) std::fill(std::begin(of_column), std::end(of_column), 0.0f);
  for (std::uint32_t b = 0; b < k_padded / block_k; ++b) {
    search_block(b, w, rows);
    if (b + 1 >= feedback_.n_blocks()) continue;
    find_errors(b, rows);
    feed_forward(b, n_rows_padded);
  }
  for (const std::size_t r : active_) {
    float* target = targets_.data() + r * stride_;
    for (std::uint32_t k = 0; k < k_padded; ++k) target[k] *= row_scales_[r].largest;
  }
}

void FeedbackEncoder::search_block(std::uint32_t b, const float* w, std::span<EncodedRow> rows) {
  blocks_.resize(active_.size());
  for (std::size_t i = 0; i < active_.size(); ++i) {
    const std::size_t r = active_[i];
    ScaledBlock& block = blocks_[i];
    block.x = targets_.data() + r * stride_ + b * block_k;
    block.w = w + b * block_k;
    block.unit = row_encoder_.unit_of(row_scales_[r]);
    block.center =
        row_encoder_.scales().nearest_scale(row_encoder_.block_rms(block.x, block.w) / row_scales_[r].wanted);
    block.codes = rows[r].codes.data() + b * block_k;
  }
  row_encoder_.scales().run(blocks_);
  for (std::size_t i = 0; i < active_.size(); ++i)
    rows[active_[i]].scales[b] = static_cast<std::uint8_t>(blocks_[i].scale);
}

void FeedbackEncoder::find_errors(std::uint32_t b, std::span<const EncodedRow> rows) {
  for (const ScaledBlock& block : blocks_) {
    const std::size_t r = active_[static_cast<std::size_t>(&block - blocks_.data())];
    const float scale = row_encoder_.scales().value(block.scale);
    const float* wanted = unit_rows_.data() + r * k_padded_ + b * block_k;
    const std::uint8_t* codes = rows[r].codes.data() + b * block_k;
    for (std::uint32_t i = 0; i < block_k; ++i) {
      const int value = format_.is_trellis() ? format_.codebook[codes[i]] : codes[i] - 128;
      errors_[i][r] = wanted[i] - block.unit * (scale * static_cast<float>(value));
    }
  }
}

// Adds the errors of block b, times the factor, to the targets of all blocks behind it.
void FeedbackEncoder::feed_forward(std::uint32_t b, std::size_t n_rows) {
  for (std::uint32_t to = b + 1; to < feedback_.n_blocks(); ++to) {
    const float* factor = feedback_.factor(b, to);
    for (std::size_t r = 0; r < n_rows; r += tile_rows) {
      for (std::size_t c = 0; c < block_k; c += tile_columns) {
        float* target = targets_.data() + r * stride_ + to * block_k + c;
        tile_product<TileOutput::add>(block_k, &errors_[0][r], feedback_rows, factor + c, block_k, target, stride_);
      }
    }
  }
}

}  // namespace r1::quant
