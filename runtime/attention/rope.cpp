#include "runtime/attention/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace r1::rt {
namespace {

// YaRN (arXiv 2309.00071, section 3.4): how much the magnitude grows with the scaling factor.
double yarn_magnitude(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

// The pair whose wavelength turns `rotations` times within the original context.
double yarn_pair_of_rotations(double rotations, double dimensions, double theta, double original_positions) {
  return dimensions * std::log(original_positions / (rotations * 2.0 * std::numbers::pi)) / (2.0 * std::log(theta));
}

// YaRN (section 3.2): fast pairs keep their frequency, slow ones are interpolated by `factor`, a ramp lies between.
void scale_yarn(const RopeConfig& rope, std::uint32_t dimensions, std::vector<double>& frequencies) {
  const double original = rope.original_max_position_embeddings;
  double low = std::floor(yarn_pair_of_rotations(rope.beta_fast, dimensions, rope.theta, original));
  double high = std::ceil(yarn_pair_of_rotations(rope.beta_slow, dimensions, rope.theta, original));
  low = std::max(low, 0.0);
  high = std::min(high, dimensions - 1.0);
  if (low == high) high += 0.001;  // as the reference: no division by zero
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] = frequencies[i] / rope.factor * ramp + frequencies[i] * (1.0 - ramp);
  }
}

// Llama 3.1: wavelengths beyond the original context are stretched, short ones kept, the band between is blended.
void scale_llama3(const RopeConfig& rope, std::vector<double>& frequencies) {
  const double original = rope.original_max_position_embeddings;
  for (double& frequency : frequencies) {
    const double wavelength = 2.0 * std::numbers::pi / frequency;
    if (wavelength > original / rope.low_freq_factor) {
      frequency /= rope.factor;
    } else if (wavelength >= original / rope.high_freq_factor) {
      const double smooth =
          (original / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
      frequency = (1.0 - smooth) * frequency / rope.factor + smooth * frequency;
    }
  }
}

}  // namespace

Rope::Rope(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  const std::uint32_t dimensions = config.is_mla() ? config.qk_rope_head_dim : config.head_dim;
  const std::uint32_t head_dim = config.is_mla() ? config.qk_head_dim() : config.head_dim;
  double scale = 1.0 / std::sqrt(static_cast<double>(head_dim));

  frequencies_.resize(dimensions / 2);
  for (std::size_t i = 0; i < frequencies_.size(); ++i) {
    frequencies_[i] = std::pow(rope.theta, -2.0 * static_cast<double>(i) / dimensions);
  }
  switch (rope.scaling) {
    case RopeScaling::none:
      break;
    case RopeScaling::yarn:
      scale_yarn(rope, dimensions, frequencies_);
      if (config.is_mla()) {
        // DeepSeek moves the magnitude from cos and sin to the scores (mscale = mscale_all_dim leaves 1 here).
        const double all_dimensions = yarn_magnitude(rope.factor, rope.mscale_all_dim);
        magnitude_ = yarn_magnitude(rope.factor, rope.mscale) / all_dimensions;
        scale *= all_dimensions * all_dimensions;
      } else {
        magnitude_ = yarn_magnitude(rope.factor, 1.0) * rope.attn_factor;
      }
      break;
    case RopeScaling::llama3:
      scale_llama3(rope, frequencies_);
      break;
  }
  softmax_scale_ = static_cast<float>(scale);
}

void Rope::angles(std::uint32_t position, float* cos, float* sin) const {
  for (std::size_t i = 0; i < frequencies_.size(); ++i) {
    const double angle = static_cast<double>(position) * frequencies_[i];
    cos[i] = static_cast<float>(std::cos(angle) * magnitude_);
    sin[i] = static_cast<float>(std::sin(angle) * magnitude_);
  }
}

}  // namespace r1::rt
