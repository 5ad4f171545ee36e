#include "quant/row_encoder.h"

#include <algorithm>
#include <cmath>

namespace r1::quant {
namespace {

// Rows below this are zero for every purpose: their products vanish in f32.
constexpr float smallest_row = 1e-30f;
// So are blocks beside a largest weight of 1 whose squares vanish: a search would divide by scales that do.
constexpr float smallest_block = 1e-15f;

}  // namespace

RowEncoder::RowEncoder(const FormatInfo& format, const std::array<float, 16>& s4_table, const EncodeOptions& options)
    : format_(format), scales_(format, s4_table, options) {}

void RowEncoder::encode(const float* x, const float* w, std::uint32_t k_padded, EncodedRow& row) {
  row.clear(k_padded);
  unit_row_.resize(k_padded);
  const RowScale scale = scale_row(x, w, k_padded, unit_row_.data());
  if (scale.largest == 0) return;
  const float unit = unit_of(scale);
  blocks_.resize(n_blocks_);
  for (std::uint32_t b = 0; b < n_blocks_; ++b) {
    blocks_[b].x = unit_row_.data() + b * block_k;
    blocks_[b].w = w + b * block_k;
    blocks_[b].unit = unit;
    blocks_[b].center = scales_.nearest_scale(rms_[b] / scale.wanted);
    blocks_[b].codes = row.codes.data() + b * block_k;
  }
  scales_.run(blocks_);
  for (std::uint32_t b = 0; b < n_blocks_; ++b) row.scales[b] = static_cast<std::uint8_t>(blocks_[b].scale);
  row.row_scale = unit * scale.largest;
}

RowScale RowEncoder::scale_row(const float* x, const float* w, std::uint32_t k_padded, float* unit_row) {
  n_blocks_ = k_padded / block_k;
  float largest = 0;
  for (std::uint32_t k = 0; k < k_padded; ++k) largest = std::max(largest, std::fabs(x[k]));
  if (largest < smallest_row) return {};
  for (std::uint32_t k = 0; k < k_padded; ++k) unit_row[k] = x[k] / largest;
  rms_.resize(n_blocks_);
  for (std::uint32_t b = 0; b < n_blocks_; ++b) rms_[b] = block_rms(unit_row + b * block_k, w + b * block_k);
  return {largest, largest_wanted_scale(unit_row, w)};
}

float RowEncoder::block_rms(const float* x, const float* w) const {
  float sum = 0, total = 0, largest = 0;
  for (std::uint32_t i = 0; i < block_k; ++i) {
    sum += w[i] * x[i] * x[i];
    total += w[i];
    largest = std::max(largest, std::fabs(x[i]));
  }
  if (format_.id == Format::w8) return largest / 127;
  return total > 0 ? std::sqrt(sum / total) : 0;
}

// The largest scale that any block wants when nothing bounds it. None wants much more than its rms, or than what puts
// its largest weight on the largest code; blocks are searched in falling order of that bound, two at a time, and the
// search ends early.
float RowEncoder::largest_wanted_scale(const float* unit_row, const float* w) {
  if (format_.id == Format::w8) return std::max(*std::max_element(rms_.begin(), rms_.end()), smallest_row);
  bound_.resize(n_blocks_);
  order_.resize(n_blocks_);
  for (std::uint32_t b = 0; b < n_blocks_; ++b) {
    float largest = 0;
    for (std::uint32_t i = 0; i < block_k; ++i) largest = std::max(largest, std::fabs(unit_row[b * block_k + i]));
    bound_[b] = std::max(1.25f * rms_[b], 1.06f * largest / (63 * format_.unit));
    order_[b] = b;
  }
  std::sort(order_.begin(), order_.end(),
            [&](std::uint32_t i, std::uint32_t j) { return bound_[i] != bound_[j] ? bound_[i] > bound_[j] : i < j; });
  float wanted = smallest_block;
  for (std::uint32_t i = 0; i < n_blocks_ && bound_[order_[i]] > wanted; i += 2) {
    const int n = i + 1 < n_blocks_ && bound_[order_[i + 1]] > wanted ? 2 : 1;
    wanted = std::max(wanted, wanted_scale(order_.data() + i, n, unit_row, w, wanted));
  }
  return wanted;
}

// The larger of the scales that one or two blocks want when nothing bounds them; what lies below `floor` does not
// interest. The search goes from a block's bound down past its weighted rms: an outlier of little importance puts the
// two far apart.
float RowEncoder::wanted_scale(const std::uint32_t* blocks, int n_blocks, const float* unit_row, const float* w,
                               float floor) {
  const int n_scales = scales_.n_scales();
  const auto n = static_cast<std::size_t>(n_scales);
  float best[2] = {}, best_cost[2] = {};
  tried_.resize(2 * n);
  for (int first = 0;; first += n_scales) {
    BlockQuery queries[2];
    int which[2] = {}, n_queries = 0;
    for (int i = 0; i < n_blocks; ++i) {
      const std::uint32_t b = blocks[i];
      if (first > 0 && bound_[b] * steps_down(first) <= std::max(floor, 0.6f * rms_[b])) continue;
      float* scales = tried_.data() + static_cast<std::size_t>(n_queries) * n;
      for (int c = 0; c < n_scales; ++c) scales[c] = bound_[b] * steps_down(first + c) * format_.unit;
      queries[n_queries].x = unit_row + b * block_k;
      queries[n_queries].w = w + b * block_k;
      queries[n_queries].scales = scales;
      which[n_queries++] = i;
    }
    if (n_queries == 0) return std::max(best[0], best[1]);
    scales_.search().run(queries, n_queries);
    for (int q = 0; q < n_queries; ++q) {
      const int i = which[q];
      if (first > 0 && queries[q].cost >= best_cost[i]) continue;
      best[i] = bound_[blocks[i]] * steps_down(first + queries[q].candidate);
      best_cost[i] = queries[q].cost;
    }
  }
}

// A search spans 8/6 of an octave.
float RowEncoder::steps_down(int n) const {
  return std::exp2(static_cast<float>(-n) * 8.0f / (6.0f * static_cast<float>(scales_.n_scales())));
}

}  // namespace r1::quant
