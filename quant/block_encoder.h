// Codes of one 32-k block at the best of eight candidate scales: the trellis search for T formats, nearest values for
// nl6 and w8. `Lanes` is how many candidates the trellis search takes at once; the result does not depend on it.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "quant/format.h"
#include "quant/trellis_search.h"

namespace r1::quant {

inline constexpr int n_candidates = 8;

struct BlockChoice {
  int candidate = 0;  // ties to the lower
  float cost = 0;     // Σ w (x − s·c)², less Σ w x² for trellis formats: comparable between scales of one block
};

// T formats.
template <class Shape, class Lanes>
class TrellisBlock {
 public:
  explicit TrellisBlock(const FormatInfo& format) : search_(format.codebook) {}

  // x, w [32]; scales [n_candidates], all > 0; codes [32]
  BlockChoice encode(const float* x, const float* w, const float* scales, std::uint8_t* codes) {
    BlockChoice best;
    for (int c = 0; c < n_candidates; c += Lanes::n) {
      float cost[Lanes::n];
      search_.run(x, w, scales + c, cost);
      int better = -1;
      for (int l = 0; l < Lanes::n; ++l) {
        if ((c == 0 && l == 0) || cost[l] < best.cost) {
          best = {c + l, cost[l]};
          better = l;
        }
      }
      if (better >= 0) search_.trace(better, codes);
    }
    return best;
  }

 private:
  TrellisSearch<Shape, Lanes> search_;
};

// nl6: the nearest of 64 sorted values. Midpoints of integers are multiples of one half, so a table over halves
// decides.
class NearestBlock {
 public:
  explicit NearestBlock(const FormatInfo& format) : codebook_(format.codebook) {
    for (int i = 0; i < n_halves; ++i) {
      const float middle = (static_cast<float>(i) + 0.5f) / 2 - 64;
      int code = 0;
      while (code < 63 && middle > (static_cast<float>(codebook_[code]) + static_cast<float>(codebook_[code + 1])) / 2)
        ++code;
      nearest_[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(code);
    }
  }

  BlockChoice encode(const float* x, const float* w, const float* scales, std::uint8_t* codes) const {
    BlockChoice best;
    for (int c = 0; c < n_candidates; ++c) {
      std::uint8_t trial[block_k];
      const float inverse = 1.0f / scales[c];
      float cost = 0;
      for (std::uint32_t i = 0; i < block_k; ++i) {
        const float half = std::clamp(x[i] * inverse * 2 + 128, 0.0f, static_cast<float>(n_halves - 1));
        trial[i] = nearest_[static_cast<std::size_t>(half)];
        const float error = x[i] - scales[c] * static_cast<float>(codebook_[trial[i]]);
        cost += w[i] * error * error;
      }
      if (c == 0 || cost < best.cost) {
        best = {c, cost};
        std::copy(trial, trial + block_k, codes);
      }
    }
    return best;
  }

 private:
  static constexpr int n_halves = 256;
  const std::int8_t* codebook_;
  std::array<std::uint8_t, n_halves> nearest_{};
};

// w8: rounding to −127 … 127; the code is the value + 128.
class RoundedBlock {
 public:
  explicit RoundedBlock(const FormatInfo&) {}

  BlockChoice encode(const float* x, const float* w, const float* scales, std::uint8_t* codes) const {
    BlockChoice best;
    for (int c = 0; c < n_candidates; ++c) {
      std::uint8_t trial[block_k];
      const float inverse = 1.0f / scales[c];
      float cost = 0;
      for (std::uint32_t i = 0; i < block_k; ++i) {
        const float value = std::nearbyint(std::clamp(x[i] * inverse, -127.0f, 127.0f));
        trial[i] = static_cast<std::uint8_t>(static_cast<int>(value) + 128);
        const float error = x[i] - scales[c] * value;
        cost += w[i] * error * error;
      }
      if (c == 0 || cost < best.cost) {
        best = {c, cost};
        std::copy(trial, trial + block_k, codes);
      }
    }
    return best;
  }
};

}  // namespace r1::quant
