#include "quant/scale_search.h"

#include <algorithm>
#include <cmath>

namespace r1::quant {
namespace {

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

ScaleSearch::ScaleSearch(const FormatInfo& format, const std::array<float, 16>& s4_table, const EncodeOptions& options)
    : format_(format),
      s4_table_(s4_table),
      n_scales_(n_scales_of(options.effort)),
      search_(make_block_search(format.id, n_scales_, options.isa)) {}

void ScaleSearch::run(std::span<ScaledBlock> blocks) {
  const int n = n_scales_;
  if (format_.scale == ScaleKind::s4) {
    try_around_rms(blocks, -n / 2, 1, true);
  } else if (format_.id == Format::w8) {  // the scale that just does not clip, and some below
    try_around_rms(blocks, -n * 5 / 8, 1, true);
  } else if (format_.id == Format::nl6) {  // over 2^(−1) … 2^1.5: its search is cheap
    try_range_around_rms(blocks, -16, 24);
  } else if (format_.id == Format::t5) {  // over 2^(−0.75) … 2^1.25: so is this one, and the error is jagged
    try_range_around_rms(blocks, -12, 20);
  } else {  // sixteenths of an octave: coarsely over 2^(−0.75) … 2^1, then all around the best
    try_around_rms(blocks, -12, 32 / n, true);
    try_around_best(blocks);
  }
}

int ScaleSearch::nearest_scale(float target) const {
  const float log = target > 0 ? std::log2(target) : -64.0f;
  if (format_.scale == ScaleKind::s8)
    return static_cast<int>(std::nearbyint(std::clamp(log * 16, -128.0f, 127.0f))) + 128;
  const float step = std::log2(s4_table_[15] / s4_table_[14]);
  return static_cast<int>(std::nearbyint(std::max(log / step, -15.0f))) + 15;
}

float ScaleSearch::value(int index) const {
  const auto byte = static_cast<std::uint8_t>(index);
  return format_.scale == ScaleKind::s4 ? s4_table_[byte] : s8_scale(byte);
}

// Tries n_scales of the grid for every block, moved to lie on it; keeps the best so far.
template <class RoundOf>
void ScaleSearch::try_scales(std::span<ScaledBlock> blocks, const RoundOf& round_of, bool is_first) {
  const auto n = static_cast<std::size_t>(n_scales_);
  const int n_grid = format_.scale == ScaleKind::s4 ? 16 : 256;
  queries_.resize(blocks.size());
  scales_.resize(blocks.size() * n);
  first_.resize(blocks.size());
  int stride = 1;
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const Round round = round_of(blocks[b]);
    stride = round.stride;
    first_[b] = std::clamp(round.first, 0, n_grid - 1 - (n_scales_ - 1) * stride);
    float* scales = scales_.data() + b * n;
    for (int c = 0; c < n_scales_; ++c) scales[c] = blocks[b].unit * value(first_[b] + c * stride);
    queries_[b].x = blocks[b].x;
    queries_[b].w = blocks[b].w;
    queries_[b].scales = scales;
  }
  search_->run(queries_.data(), static_cast<int>(blocks.size()));
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const BlockQuery& query = queries_[b];
    if (!is_first && query.cost >= blocks[b].cost) continue;
    blocks[b].scale = first_[b] + query.candidate * stride;
    blocks[b].cost = query.cost;
    std::copy(query.codes, query.codes + block_k, blocks[b].codes);
  }
}

void ScaleSearch::try_around_rms(std::span<ScaledBlock> blocks, int first, int stride, bool is_first) {
  try_scales(
      blocks,
      [&](const ScaledBlock& block) {
        return Round{block.center + first, stride};
      },
      is_first);
}

// All of the grid from `first` up to `end`; where a search takes few, every second index, then all around the best.
void ScaleSearch::try_range_around_rms(std::span<ScaledBlock> blocks, int first, int end) {
  const int stride = n_scales_ == 4 ? 2 : 1;
  for (int i = first; i < end; i += n_scales_ * stride) try_around_rms(blocks, i, stride, i == first);
  if (stride > 1) try_around_best(blocks);
}

// The neighbours of the best so far.
void ScaleSearch::try_around_best(std::span<ScaledBlock> blocks) {
  try_scales(
      blocks,
      [&](const ScaledBlock& block) {
        return Round{block.scale + 1 - n_scales_ / 2, 1};
      },
      false);
}

}  // namespace r1::quant
