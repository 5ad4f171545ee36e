// One row: block scales, row scale, codes (FORMAT.md, "Encoder"). Shared by the encoder and its one-lane oracle.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "quant/block_encoder.h"
#include "quant/format.h"

namespace r1::quant {

// A row's result, in order of k, before packing.
struct EncodedRow {
  float row_scale = 0;
  std::vector<std::uint8_t> scales;  // [k_padded / 32]: S4 index or S8 byte
  std::vector<std::uint8_t> codes;   // [k_padded]
};

template <class Block>
class RowEncoder {
 public:
  RowEncoder(const FormatInfo& format, const std::array<float, 16>& s4_table)
      : format_(format), s4_table_(s4_table), block_(format) {}

  // x, w [k_padded], zero behind the row's end. w ≥ 0.
  void encode(const float* x, const float* w, std::uint32_t k_padded, EncodedRow& row) {
    const std::uint32_t n_blocks = k_padded / block_k;
    row.scales.assign(n_blocks, 0);
    row.codes.assign(k_padded, 0);
    row.row_scale = 0;
    // Work on a row whose largest weight is 1: no square overflows or vanishes.
    float largest = 0;
    for (std::uint32_t k = 0; k < k_padded; ++k) largest = std::max(largest, std::fabs(x[k]));
    if (largest < smallest_row) {
      row.row_scale = 0;
      return;
    }
    unit_row_.resize(k_padded);
    for (std::uint32_t k = 0; k < k_padded; ++k) unit_row_[k] = x[k] / largest;
    rms_.resize(n_blocks);
    for (std::uint32_t b = 0; b < n_blocks; ++b) rms_[b] = block_rms(unit_row_.data() + b * block_k, w + b * block_k);

    const float wanted = largest_wanted_scale(w, n_blocks);
    // Block scales are relative to this one: index 15 (S4) and byte 128 (S8) stand for 1.
    const float unit = wanted * format_.unit;
    for (std::uint32_t b = 0; b < n_blocks; ++b) {
      const float* xb = unit_row_.data() + b * block_k;
      const float* wb = w + b * block_k;
      std::uint8_t* codes = row.codes.data() + b * block_k;
      const int center = nearest_scale(rms_[b] / wanted);
      GridChoice choice;
      if (format_.scale == ScaleKind::s4) {
        try_scales(xb, wb, center - n_candidates / 2, 1, unit, choice, codes);
      } else if (format_.id == Format::w8) {  // the scale that just does not clip, and some below
        try_scales(xb, wb, center - 5, 1, unit, choice, codes);
      } else if (format_.id == Format::nl6) {  // every sixteenth of an octave over 2^(−1) … 2^1.5: its search is cheap
        for (int i = -16; i < 24; i += n_candidates) try_scales(xb, wb, center + i, 1, unit, choice, codes);
      } else {  // sixteenths of an octave: coarsely over 2^(−0.75) … 2^1, then all around the best
        try_scales(xb, wb, center - 12, 4, unit, choice, codes);
        const int middle = choice.index;
        const int n_fine = format_.id == Format::t5 ? 16 : 8;  // the finer the format, the more jagged its error
        for (int i = 0; i < n_fine; i += n_candidates) {
          try_scales(xb, wb, middle + 1 - n_fine / 2 + i, 1, unit, choice, codes);
        }
      }
      row.scales[b] = static_cast<std::uint8_t>(choice.index);
    }
    row.row_scale = unit * largest;
  }

 private:
  // Rows below this are zero for every purpose: their products vanish in f32.
  static constexpr float smallest_row = 1e-30f;

  // What a block's scale is guessed from: its weighted rms; for w8, which must not clip, the largest weight.
  float block_rms(const float* x, const float* w) const {
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
  // its largest weight on the largest code; blocks are searched in falling order of that bound, and the search ends
  // early.
  float largest_wanted_scale(const float* w, std::uint32_t n_blocks) {
    if (format_.id == Format::w8) return std::max(*std::max_element(rms_.begin(), rms_.end()), smallest_row);
    bound_.resize(n_blocks);
    order_.resize(n_blocks);
    for (std::uint32_t b = 0; b < n_blocks; ++b) {
      float largest = 0;
      for (std::uint32_t i = 0; i < block_k; ++i) largest = std::max(largest, std::fabs(unit_row_[b * block_k + i]));
      bound_[b] = std::max(1.25f * rms_[b], 1.06f * largest / (63 * format_.unit));
      order_[b] = b;
    }
    std::sort(order_.begin(), order_.end(),
              [&](std::uint32_t i, std::uint32_t j) { return bound_[i] != bound_[j] ? bound_[i] > bound_[j] : i < j; });
    float wanted = 0;
    for (const std::uint32_t b : order_) {
      if (bound_[b] <= wanted) break;
      wanted = std::max(wanted, wanted_scale(b, w, wanted));
    }
    return std::max(wanted, smallest_row);
  }

  // The scale that block b wants when nothing bounds it; what lies below `floor` does not interest. The search goes
  // from the block's bound down past its weighted rms: an outlier of little importance puts the two far apart.
  float wanted_scale(std::uint32_t b, const float* w, float floor) {
    const float lowest = std::max(floor, 0.6f * rms_[b]);
    float best = 0, best_cost = 0;
    for (int first = 0; first == 0 || bound_[b] * sixths_of_octaves_down(first) > lowest; first += n_candidates) {
      float free_scales[n_candidates], scales[n_candidates];
      for (int c = 0; c < n_candidates; ++c) {
        free_scales[c] = bound_[b] * sixths_of_octaves_down(first + c);
        scales[c] = free_scales[c] * format_.unit;
      }
      std::uint8_t codes[block_k];
      const BlockChoice choice = block_.encode(unit_row_.data() + b * block_k, w + b * block_k, scales, codes);
      if (first == 0 || choice.cost < best_cost) {
        best = free_scales[choice.candidate];
        best_cost = choice.cost;
      }
    }
    return best;
  }

  static float sixths_of_octaves_down(int n) { return std::exp2(static_cast<float>(-n) / 6.0f); }

  // The grid's index nearest to a scale relative to the row's.
  int nearest_scale(float target) const {
    const float log = target > 0 ? std::log2(target) : -64.0f;
    if (format_.scale == ScaleKind::s8)
      return static_cast<int>(std::nearbyint(std::clamp(log * 16, -128.0f, 127.0f))) + 128;
    const float step = std::log2(s4_table_[15] / s4_table_[14]);
    return static_cast<int>(std::nearbyint(std::max(log / step, -15.0f))) + 15;
  }

  struct GridChoice {
    int index = -1;
    float cost = 0;
  };

  // Tries eight scales of the grid, first, first + stride …, moved to lie on it; keeps the best so far.
  void try_scales(const float* x, const float* w, int first, int stride, float unit, GridChoice& best,
                  std::uint8_t* codes) {
    const int n_scales = format_.scale == ScaleKind::s4 ? 16 : 256;
    first = std::clamp(first, 0, n_scales - 1 - (n_candidates - 1) * stride);
    float scales[n_candidates];
    for (int c = 0; c < n_candidates; ++c) {
      const auto index = static_cast<std::uint8_t>(first + c * stride);
      scales[c] = unit * (format_.scale == ScaleKind::s4 ? s4_table_[index] : s8_scale(index));
    }
    std::uint8_t trial[block_k];
    const BlockChoice choice = block_.encode(x, w, scales, trial);
    if (best.index >= 0 && choice.cost >= best.cost) return;
    best = {first + choice.candidate * stride, choice.cost};
    std::copy(trial, trial + block_k, codes);
  }

  const FormatInfo& format_;
  const std::array<float, 16>& s4_table_;
  Block block_;
  std::vector<float> unit_row_, rms_, bound_;
  std::vector<std::uint32_t> order_;
};

}  // namespace r1::quant
