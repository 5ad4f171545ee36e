// Searches of formats without a trellis: each weight has the nearest value.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "quant/block_search.h"

namespace r1::quant {

// nl6: the nearest of 64 sorted values. Midpoints of integers are multiples of one half, so a table over halves
// decides.
class NearestSearch final : public BlockSearch {
 public:
  explicit NearestSearch(int n_scales) : n_scales_(n_scales), codebook_(info(Format::nl6).codebook) {
    for (int i = 0; i < n_halves; ++i) {
      const float middle = (static_cast<float>(i) + 0.5f) / 2 - 64;
      int code = 0;
      while (code < 63 && middle > (static_cast<float>(codebook_[code]) + static_cast<float>(codebook_[code + 1])) / 2)
        ++code;
      nearest_[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(code);
    }
  }

  void run(BlockQuery* queries, int n_queries) override {
    for (int q = 0; q < n_queries; ++q) search(queries[q]);
  }

 private:
  void search(BlockQuery& query) const {
    for (int c = 0; c < n_scales_; ++c) {
      std::uint8_t trial[block_k];
      const float scale = query.scales[c], inverse = 1.0f / scale;
      float cost = 0;
      for (std::uint32_t i = 0; i < block_k; ++i) {
        const float half = std::clamp(query.x[i] * inverse * 2 + 128, 0.0f, static_cast<float>(n_halves - 1));
        trial[i] = nearest_[static_cast<std::size_t>(half)];
        const float error = query.x[i] - scale * static_cast<float>(codebook_[trial[i]]);
        cost += query.w[i] * error * error;
      }
      if (c > 0 && cost >= query.cost) continue;
      query.candidate = c;
      query.cost = cost;
      std::copy(trial, trial + block_k, query.codes);
    }
  }

  static constexpr int n_halves = 256;
  int n_scales_;
  const std::int8_t* codebook_;
  std::array<std::uint8_t, n_halves> nearest_{};
};

// w8: rounding to −127 … 127; the code is the value + 128.
class RoundedSearch final : public BlockSearch {
 public:
  explicit RoundedSearch(int n_scales) : n_scales_(n_scales) {}

  void run(BlockQuery* queries, int n_queries) override {
    for (int q = 0; q < n_queries; ++q) search(queries[q]);
  }

 private:
  void search(BlockQuery& query) const {
    for (int c = 0; c < n_scales_; ++c) {
      std::uint8_t trial[block_k];
      const float scale = query.scales[c], inverse = 1.0f / scale;
      float cost = 0;
      for (std::uint32_t i = 0; i < block_k; ++i) {
        const float value = std::nearbyint(std::clamp(query.x[i] * inverse, -127.0f, 127.0f));
        trial[i] = static_cast<std::uint8_t>(static_cast<int>(value) + 128);
        const float error = query.x[i] - scale * value;
        cost += query.w[i] * error * error;
      }
      if (c > 0 && cost >= query.cost) continue;
      query.candidate = c;
      query.cost = cost;
      std::copy(trial, trial + block_k, query.codes);
    }
  }

  int n_scales_;
};

}  // namespace r1::quant
