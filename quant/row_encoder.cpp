#include "quant/row_encoder.h"

#include <algorithm>
#include <cmath>

namespace r1::quant {
namespace {

// Rows below this are zero for every purpose: their products vanish in f32.
constexpr float smallest_row = 1e-30f;

int n_scales_of(Effort effort) {
  switch (effort) {
    case Effort::fast:
      return 4;
    case Effort::best:
      return 16;
    default:
      return 8;
  }
}

}  // namespace

RowEncoder::RowEncoder(const FormatInfo& format, const std::array<float, 16>& s4_table, const EncodeOptions& options)
    : format_(format),
      s4_table_(s4_table),
      n_scales_(n_scales_of(options.effort)),
      search_(make_block_search(format.id, n_scales_, options.isa)) {}

void RowEncoder::encode(const float* x, const float* w, std::uint32_t k_padded, EncodedRow& row) {
  n_blocks_ = k_padded / block_k;
  row.scales.assign(n_blocks_, 0);
  row.codes.assign(k_padded, 0);
  row.row_scale = 0;
  // Work on a row whose largest weight is 1: no square overflows or vanishes.
  float largest = 0;
  for (std::uint32_t k = 0; k < k_padded; ++k) largest = std::max(largest, std::fabs(x[k]));
  if (largest < smallest_row) return;
  unit_row_.resize(k_padded);
  for (std::uint32_t k = 0; k < k_padded; ++k) unit_row_[k] = x[k] / largest;
  rms_.resize(n_blocks_);
  for (std::uint32_t b = 0; b < n_blocks_; ++b) rms_[b] = block_rms(unit_row_.data() + b * block_k, w + b * block_k);

  const float wanted = largest_wanted_scale(w);
  unit_ = wanted * format_.unit;
  center_.resize(n_blocks_);
  for (std::uint32_t b = 0; b < n_blocks_; ++b) center_[b] = nearest_scale(rms_[b] / wanted);
  const int n = n_scales_;
  if (format_.scale == ScaleKind::s4) {
    try_around_rms(w, -n / 2, 1, true, row);
  } else if (format_.id == Format::w8) {  // the scale that just does not clip, and some below
    try_around_rms(w, -n * 5 / 8, 1, true, row);
  } else if (format_.id == Format::nl6) {  // over 2^(−1) … 2^1.5: its search is cheap
    try_range_around_rms(w, -16, 24, row);
  } else if (format_.id == Format::t5) {  // over 2^(−0.75) … 2^1.25: so is this one, and the error is jagged
    try_range_around_rms(w, -12, 20, row);
  } else {  // sixteenths of an octave: coarsely over 2^(−0.75) … 2^1, then all around the best
    try_around_rms(w, -12, 32 / n, true, row);
    try_around_best(w, row);
  }
  row.row_scale = unit_ * largest;
}

// What a block's scale is guessed from: its weighted rms; for w8, which must not clip, the largest weight.
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
float RowEncoder::largest_wanted_scale(const float* w) {
  if (format_.id == Format::w8) return std::max(*std::max_element(rms_.begin(), rms_.end()), smallest_row);
  bound_.resize(n_blocks_);
  order_.resize(n_blocks_);
  for (std::uint32_t b = 0; b < n_blocks_; ++b) {
    float largest = 0;
    for (std::uint32_t i = 0; i < block_k; ++i) largest = std::max(largest, std::fabs(unit_row_[b * block_k + i]));
    bound_[b] = std::max(1.25f * rms_[b], 1.06f * largest / (63 * format_.unit));
    order_[b] = b;
  }
  std::sort(order_.begin(), order_.end(),
            [&](std::uint32_t i, std::uint32_t j) { return bound_[i] != bound_[j] ? bound_[i] > bound_[j] : i < j; });
  float wanted = 0;
  for (std::uint32_t i = 0; i < n_blocks_ && bound_[order_[i]] > wanted; i += 2) {
    const int n = i + 1 < n_blocks_ && bound_[order_[i + 1]] > wanted ? 2 : 1;
    wanted = std::max(wanted, wanted_scale(order_.data() + i, n, w, wanted));
  }
  return std::max(wanted, smallest_row);
}

// The larger of the scales that one or two blocks want when nothing bounds them; what lies below `floor` does not
// interest. The search goes from a block's bound down past its weighted rms: an outlier of little importance puts the
// two far apart.
float RowEncoder::wanted_scale(const std::uint32_t* blocks, int n_blocks, const float* w, float floor) {
  const auto n = static_cast<std::size_t>(n_scales_);
  float best[2] = {}, best_cost[2] = {};
  scales_.resize(2 * n);
  for (int first = 0;; first += n_scales_) {
    BlockQuery queries[2];
    int which[2] = {}, n_queries = 0;
    for (int i = 0; i < n_blocks; ++i) {
      const std::uint32_t b = blocks[i];
      if (first > 0 && bound_[b] * steps_down(first) <= std::max(floor, 0.6f * rms_[b])) continue;
      float* scales = scales_.data() + static_cast<std::size_t>(n_queries) * n;
      for (int c = 0; c < n_scales_; ++c) scales[c] = bound_[b] * steps_down(first + c) * format_.unit;
      queries[n_queries].x = unit_row_.data() + b * block_k;
      queries[n_queries].w = w + b * block_k;
      queries[n_queries].scales = scales;
      which[n_queries++] = i;
    }
    if (n_queries == 0) return std::max(best[0], best[1]);
    search_->run(queries, n_queries);
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
  return std::exp2(static_cast<float>(-n) * 8.0f / (6.0f * static_cast<float>(n_scales_)));
}

// The grid's index nearest to a scale relative to the row's.
int RowEncoder::nearest_scale(float target) const {
  const float log = target > 0 ? std::log2(target) : -64.0f;
  if (format_.scale == ScaleKind::s8)
    return static_cast<int>(std::nearbyint(std::clamp(log * 16, -128.0f, 127.0f))) + 128;
  const float step = std::log2(s4_table_[15] / s4_table_[14]);
  return static_cast<int>(std::nearbyint(std::max(log / step, -15.0f))) + 15;
}

// Tries n_scales of the grid for every block, moved to lie on it; keeps the best so far.
template <class RoundOf>
void RowEncoder::try_scales(const float* w, const RoundOf& round_of, bool is_first, EncodedRow& row) {
  const auto n = static_cast<std::size_t>(n_scales_);
  const int n_grid = format_.scale == ScaleKind::s4 ? 16 : 256;
  queries_.resize(n_blocks_);
  scales_.resize(n_blocks_ * n);
  first_.resize(n_blocks_);
  best_.resize(n_blocks_);
  cost_.resize(n_blocks_);
  int stride = 1;
  for (std::uint32_t b = 0; b < n_blocks_; ++b) {
    const Round round = round_of(b);
    stride = round.stride;
    first_[b] = std::clamp(round.first, 0, n_grid - 1 - (n_scales_ - 1) * stride);
    float* scales = scales_.data() + b * n;
    for (int c = 0; c < n_scales_; ++c) {
      const auto index = static_cast<std::uint8_t>(first_[b] + c * stride);
      scales[c] = unit_ * (format_.scale == ScaleKind::s4 ? s4_table_[index] : s8_scale(index));
    }
    queries_[b].x = unit_row_.data() + b * block_k;
    queries_[b].w = w + b * block_k;
    queries_[b].scales = scales;
  }
  search_->run(queries_.data(), static_cast<int>(n_blocks_));
  for (std::uint32_t b = 0; b < n_blocks_; ++b) {
    const BlockQuery& query = queries_[b];
    if (!is_first && query.cost >= cost_[b]) continue;
    best_[b] = first_[b] + query.candidate * stride;
    cost_[b] = query.cost;
    row.scales[b] = static_cast<std::uint8_t>(best_[b]);
    std::copy(query.codes, query.codes + block_k, row.codes.data() + b * block_k);
  }
}

void RowEncoder::try_around_rms(const float* w, int first, int stride, bool is_first, EncodedRow& row) {
  try_scales(
      w,
      [&](std::uint32_t b) {
        return Round{center_[b] + first, stride};
      },
      is_first, row);
}

// All of the grid from `first` up to `end`; where a search takes few, every second index, then all around the best.
void RowEncoder::try_range_around_rms(const float* w, int first, int end, EncodedRow& row) {
  const int stride = n_scales_ == 4 ? 2 : 1;
  for (int i = first; i < end; i += n_scales_ * stride) try_around_rms(w, i, stride, i == first, row);
  if (stride > 1) try_around_best(w, row);
}

// The neighbours of the best so far.
void RowEncoder::try_around_best(const float* w, EncodedRow& row) {
  const std::vector<int> middle = best_;
  try_scales(
      w,
      [&](std::uint32_t b) {
        return Round{middle[b] + 1 - n_scales_ / 2, 1};
      },
      false, row);
}

}  // namespace r1::quant
