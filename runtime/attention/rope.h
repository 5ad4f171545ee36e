// Rotary position embedding: frequencies of every scaling that the checkpoints use, angles formed in double.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/model_file/config.h"

namespace r1::rt {

class Rope {
 public:
  Rope() = default;
  Rope(const ModelConfig& config);

  // cos and sin of position × frequency, times the magnitude factor of YaRN; [dimensions / 2] each.
  // In float the angles at position 120,000 would be off by 0.004 rad and more: the product is formed in double.
  void angles(std::uint32_t position, float* cos, float* sin) const;

  [[nodiscard]] std::uint32_t n_pairs() const { return static_cast<std::uint32_t>(frequencies_.size()); }
  [[nodiscard]] const std::vector<double>& frequencies() const { return frequencies_; }  // radians per position
  [[nodiscard]] double magnitude() const { return magnitude_; }
  // What the attention scores are multiplied by: 1 / sqrt(head dimension), times mscale² where YaRN asks for it.
  [[nodiscard]] float softmax_scale() const { return softmax_scale_; }

 private:
  std::vector<double> frequencies_;  // [dimensions / 2]
  double magnitude_ = 1.0;
  float softmax_scale_ = 1.0f;
};

}  // namespace r1::rt
