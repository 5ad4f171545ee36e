// The best scale on the format's grid, and the codes, for blocks of one row or of several (FORMAT.md, "Encoder").
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "quant/block_search.h"
#include "quant/encode.h"
#include "quant/format.h"

namespace r1::quant {

struct ScaledBlock {
  const float* x = nullptr;       // [32]
  const float* w = nullptr;       // [32], ≥ 0
  float unit = 1;                 // what the grid's 1, index 15 (S4) or byte 128 (S8), stands for
  int center = 0;                 // the grid's index nearest to the block's rms: where to look
  std::uint8_t* codes = nullptr;  // out [32]
  int scale = 0;                  // out: the grid's index
  float cost = 0;                 // out
};

class ScaleSearch {
 public:
  ScaleSearch(const FormatInfo& format, const std::array<float, 16>& s4_table, const EncodeOptions& options);

  void run(std::span<ScaledBlock> blocks);

  // The grid's index nearest to a scale relative to the row's.
  [[nodiscard]] int nearest_scale(float target) const;
  // What an index of the grid stands for.
  [[nodiscard]] float value(int index) const;

  [[nodiscard]] int n_scales() const { return n_scales_; }  // of one search
  [[nodiscard]] BlockSearch& search() { return *search_; }

 private:
  // Scales of the grid that a block may have: index first, first + stride …
  struct Round {
    int first = 0, stride = 1;
  };

  template <class RoundOf>
  void try_scales(std::span<ScaledBlock> blocks, const RoundOf& round_of, bool is_first);
  void try_around_rms(std::span<ScaledBlock> blocks, int first, int stride, bool is_first);
  void try_range_around_rms(std::span<ScaledBlock> blocks, int first, int end);
  void try_around_best(std::span<ScaledBlock> blocks);

  const FormatInfo& format_;
  const std::array<float, 16>& s4_table_;
  int n_scales_;
  std::unique_ptr<BlockSearch> search_;
  std::vector<float> scales_;
  std::vector<int> first_;
  std::vector<BlockQuery> queries_;
};

}  // namespace r1::quant
