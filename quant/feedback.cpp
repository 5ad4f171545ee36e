#include "quant/feedback.h"

#include <algorithm>
#include <cmath>

#include "quant/tile_product.h"

namespace r1::quant {
namespace {

constexpr std::size_t n = block_k;

// Added to the diagonal: this much of its mean, without which columns that no text tells apart would be; and of each
// value what f32 cannot tell from nothing.
constexpr double damping_of_mean = 0.01, damping_of_value = 1e-5;
constexpr int max_trials = 4;  // each with ten times the damping

using Block = float[n][n];

// out [32, 32] = Σ_t a[t][·] b[t][·]
void block_product(std::size_t depth, const float* a, const float* b, Block& out) {
  for (std::size_t r = 0; r < n; r += tile_rows) {
    for (std::size_t c = 0; c < n; c += tile_columns)
      tile_product<TileOutput::set>(depth, a + r, n, b + c, n, out[r] + c, n);
  }
}

// h = R Rᵀ with R upper: R and its inverse. False if h is not positive.
bool factor_block(const Block& h, double (&r)[n][n], double (&inverse)[n][n]) {
  for (std::size_t j = n; j-- > 0;) {
    for (std::size_t i = 0; i <= j; ++i) {
      double rest = h[j][i];
      for (std::size_t t = j + 1; t < n; ++t) rest -= r[i][t] * r[j][t];
      r[i][j] = rest;
    }
    if (!(r[j][j] > 0) || !std::isfinite(r[j][j])) return false;
    r[j][j] = std::sqrt(r[j][j]);
    for (std::size_t i = 0; i < j; ++i) r[i][j] /= r[j][j];
  }
  for (std::size_t c = 0; c < n; ++c) {
    for (std::size_t i = n; i-- > 0;) {
      double rest = i == c ? 1 : 0;
      for (std::size_t t = i + 1; t <= c; ++t) rest -= r[i][t] * inverse[t][c];
      inverse[i][c] = i <= c ? rest / r[i][i] : 0;
    }
  }
  return true;
}

}  // namespace

Feedback::Feedback(std::uint32_t k)
    : k_(k),
      n_blocks_((k + block_k - 1) / block_k),
      importance_(k),
      strips_(std::size_t{n_blocks_} * (n_blocks_ + 1) / 2 * block_k * block_k) {}

std::uint64_t Feedback::bytes(std::uint32_t k) {
  const std::uint64_t n_blocks = (std::uint64_t{k} + block_k - 1) / block_k;
  return (n_blocks * (n_blocks + 1) / 2 + n_blocks) * sizeof(Block) + k * sizeof(float);
}

std::optional<Feedback> Feedback::of(std::uint32_t k, std::span<const float> moments, const ForEach& for_each) {
  if (k == 0 || moments.size() != triangle_values(k)) return {};
  double sum = 0;
  for (std::size_t i = 0; i < k; ++i) {
    const float value = moments[triangle_values(i) + i];
    if (!(value >= 0)) return {};
    sum += value;
  }
  const double mean = sum / k;
  if (!(mean > 0) || !std::isfinite(mean)) return {};
  Feedback feedback(k);
  double damping = damping_of_mean;
  for (int trial = 0; trial < max_trials; ++trial, damping *= 10) {
    if (feedback.factorise(moments, static_cast<float>(damping), for_each)) return feedback;
  }
  return {};
}

// H is divided by the mean of its diagonal. Block columns go from the last to the first: block (s, b) of R, transposed,
// is what H has there less what the columns behind b explain, times the inverse of R_bb.
bool Feedback::factorise(std::span<const float> moments, float damping, const ForEach& for_each) {
  double sum = 0;
  for (std::size_t i = 0; i < k_; ++i) sum += moments[triangle_values(i) + i];
  const double mean = sum / k_;
  const auto scale = static_cast<float>(1 / mean);
  const auto of_value = static_cast<float>(1 + damping / damping_of_mean * damping_of_value);
  std::vector<float> inverses(std::size_t{n_blocks_} * n * n), inverse_transposed(n * n);
  // What of block (b, s) of H, rows in b, is left to the columns up to b.
  const auto left_over = [&](std::uint32_t b, std::uint32_t s, Block& h) {
    block_product((n_blocks_ - 1 - b) * n, block(b, b) + n * n, block(s, b) + n * n, h);
    for (std::size_t j = 0; j < n; ++j) {
      const std::size_t row = b * n + j;
      const float* moments_row = row < k_ ? moments.data() + triangle_values(row) : nullptr;
      for (std::size_t i = 0; i < n; ++i) {
        const std::size_t column = s * n + i;
        float value = 0;
        if (row >= k_ || column >= k_) {  // padding: a column that is like no other
          value = row == column ? 1.0f : 0.0f;
        } else if (column < row) {
          value = moments_row[column] * scale;
        } else if (column == row) {
          value = moments_row[column] * scale * of_value + damping;
        } else {
          value = moments[triangle_values(column) + row] * scale;
        }
        h[j][i] = value - h[j][i];
      }
    }
  };
  for (std::uint32_t b = n_blocks_; b-- > 0;) {
    Block h;
    double r[n][n] = {}, inverse[n][n] = {};
    left_over(b, b, h);
    if (!factor_block(h, r, inverse)) return false;
    for (std::size_t i = 0; i < n; ++i) {
      if (b * n + i < k_) importance_[b * n + i] = h[i][i];
      for (std::size_t j = 0; j < n; ++j) {
        block(b, b)[j * n + i] = static_cast<float>(r[i][j]);
        inverses[(b * n + i) * n + j] = inverse_transposed[j * n + i] = static_cast<float>(inverse[i][j]);
      }
    }
    for_each(b, [&](std::size_t strip) {
      const auto s = static_cast<std::uint32_t>(strip);
      Block rest, r_block;
      left_over(b, s, rest);
      block_product(n, inverse_transposed.data(), &rest[0][0], r_block);
      std::copy_n(&r_block[0][0], n * n, block(s, b));
    });
  }
  for_each(n_blocks_, [&](std::size_t strip) {
    const auto s = static_cast<std::uint32_t>(strip);
    for (std::uint32_t b = s + 1; b < n_blocks_; ++b) {
      Block u;
      block_product(n, block(s, b), inverses.data() + std::size_t{b} * n * n, u);
      std::copy_n(&u[0][0], n * n, block(s, b));
    }
  });
  return std::all_of(strips_.begin(), strips_.end(), [](float x) { return std::isfinite(x); });
}

}  // namespace r1::quant
