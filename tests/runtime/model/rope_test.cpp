// Rotary frequencies against the formulas of the reference implementations, written out a second time in long double.
#include <doctest/doctest.h>

#include <cmath>
#include <numbers>
#include <vector>

#include "runtime/attention/rope.h"

using namespace r1::rt;

namespace {

using Real = long double;

ModelConfig deepseek() {
  ModelConfig c;
  c.architecture = Architecture::deepseek_v3;
  c.qk_nope_head_dim = 128;
  c.qk_rope_head_dim = 64;
  return c;
}

ModelConfig dense(Architecture architecture, std::uint32_t head_dim, double theta) {
  ModelConfig c;
  c.architecture = architecture;
  c.head_dim = head_dim;
  c.rope.theta = theta;
  return c;
}

std::vector<Real> plain(Real theta, int dimensions) {
  std::vector<Real> f;
  for (int i = 0; i < dimensions; i += 2) f.push_back(1 / std::pow(theta, static_cast<Real>(i) / dimensions));
  return f;
}

// transformers, modeling_rope_utils._compute_yarn_parameters: extrapolation and interpolation mixed by a ramp.
std::vector<Real> yarn(Real theta, int dimensions, Real factor, Real beta_fast, Real beta_slow, Real original) {
  const auto correction = [&](Real rotations) {
    return dimensions * std::log(original / (rotations * 2 * std::numbers::pi_v<Real>)) / (2 * std::log(theta));
  };
  const Real low = std::max<Real>(std::floor(correction(beta_fast)), 0);
  const Real high = std::min<Real>(std::ceil(correction(beta_slow)), dimensions - 1);
  std::vector<Real> f = plain(theta, dimensions);
  for (int i = 0; i < dimensions / 2; ++i) {
    const Real ramp = std::min<Real>(std::max<Real>((i - low) / (high - low), 0), 1), keep = 1 - ramp;
    f[static_cast<std::size_t>(i)] *= (1 - keep) / factor + keep;
  }
  return f;
}

void check_frequencies(const Rope& rope, const std::vector<Real>& expected) {
  REQUIRE(rope.frequencies().size() == expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK(std::abs(rope.frequencies()[i] / static_cast<double>(expected[i]) - 1.0) < 1e-14);
  }
}

void check_angles(const Rope& rope, std::uint32_t position, Real magnitude) {
  std::vector<float> cos(rope.n_pairs()), sin(rope.n_pairs());
  rope.angles(position, cos.data(), sin.data());
  for (std::size_t i = 0; i < cos.size(); ++i) {
    const Real angle = static_cast<Real>(position) * static_cast<Real>(rope.frequencies()[i]);
    CHECK(std::abs(cos[i] - static_cast<float>(std::cos(angle) * magnitude)) < 3e-7f);
    CHECK(std::abs(sin[i] - static_cast<float>(std::sin(angle) * magnitude)) < 3e-7f);
  }
}

}  // namespace

TEST_CASE("rope without scaling") {
  for (const double theta : {10000.0, 500000.0}) {
    const Rope rope(dense(Architecture::qwen2, 128, theta));
    check_frequencies(rope, plain(theta, 128));
    for (const std::uint32_t position : {0u, 1u, 4095u, 120000u, 163839u}) check_angles(rope, position, 1);
    CHECK(rope.softmax_scale() == doctest::Approx(1 / std::sqrt(128.0)));
  }
}

TEST_CASE("rope of deepseek_v3: the magnitude moves to the scores") {
  ModelConfig c = deepseek();
  CHECK(Rope(c).softmax_scale() == doctest::Approx(1 / std::sqrt(192.0)));
  c.rope.scaling = RopeScaling::yarn;
  c.rope.factor = 40;
  c.rope.original_max_position_embeddings = 4096;
  c.rope.mscale = c.rope.mscale_all_dim = 1.0;
  const Rope rope(c);
  check_frequencies(rope, yarn(10000, 64, 40, 32, 1, 4096));
  CHECK(rope.frequencies().front() == doctest::Approx(1.0));
  CHECK(rope.magnitude() == doctest::Approx(1.0));
  const double mscale = 0.1 * std::log(40.0) + 1;
  CHECK(rope.softmax_scale() == doctest::Approx(mscale * mscale / std::sqrt(192.0)));

  c.rope.mscale = 0.707;
  c.rope.mscale_all_dim = 0.0;  // absent: the magnitude stays with cos and sin
  const Rope other(c);
  check_angles(other, 20000, 0.1L * 0.707L * std::log(40.0L) + 1);
  CHECK(other.softmax_scale() == doctest::Approx(1 / std::sqrt(192.0)));
}

TEST_CASE("rope of qwen3: YaRN with attn_factor") {
  ModelConfig c = dense(Architecture::qwen3, 64, 1e6);
  c.rope.scaling = RopeScaling::yarn;
  c.rope.factor = 4;
  c.rope.original_max_position_embeddings = 32768;
  c.rope.attn_factor = 0.75;
  const Rope rope(c);
  check_frequencies(rope, yarn(1000000, 64, 4, 32, 1, 32768));
  check_angles(rope, 120000, (0.1L * std::log(4.0L) + 1) * 0.75L);
  CHECK(rope.softmax_scale() == doctest::Approx(1 / 8.0));
}

TEST_CASE("rope of llama3") {
  ModelConfig c = dense(Architecture::llama, 32, 500000);
  c.rope.scaling = RopeScaling::llama3;
  c.rope.factor = 8;
  c.rope.low_freq_factor = 1;
  c.rope.high_freq_factor = 4;
  c.rope.original_max_position_embeddings = 8192;
  std::vector<Real> expected = plain(500000, 32);
  int kept = 0, blended = 0, stretched = 0;
  for (Real& f : expected) {
    const Real wavelength = 2 * std::numbers::pi_v<Real> / f;
    if (wavelength < 8192 / 4.0L) {
      ++kept;
    } else if (wavelength > 8192) {
      f /= 8;
      ++stretched;
    } else {
      const Real smooth = (8192 / wavelength - 1) / (4 - 1);
      f = (1 - smooth) * f / 8 + smooth * f;
      ++blended;
    }
  }
  CHECK(kept * blended * stretched > 0);
  const Rope rope(c);
  check_frequencies(rope, expected);
  check_angles(rope, 131071, 1);
}
