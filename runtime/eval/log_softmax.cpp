#include "runtime/eval/log_softmax.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace r1::eval {
namespace {

// Exponentials are made a block at a time, in loops that a compiler turns into vectors, and added up in so many lanes.
constexpr std::size_t block = 64, lanes = 8;
using Block = std::array<double, block>;

// e^x of x ≤ 0 (below −708: of −708, which is 3e-308), to about one unit in the last place: a fraction of what std::exp
// takes for a row of 129,280 logits.
void exp_of_negative(Block& x) {
  constexpr double shift = 0x1.8p52;  // rounds to a whole number, and leaves it in the low bits
  constexpr double ln2_high = 0x1.62e42fefa0000p-1, ln2_low = 0x1.cf79abc9e3b3ap-40;
  // A loop of its own: as part of the next one, GCC would make a branch of it.
  for (double& v : x) v = std::max(v, -708.0);
  for (double& v : x) {
    const double shifted = v * 0x1.71547652b82fep+0 + shift;
    const double k = shifted - shift;
    const double r = (v - k * ln2_high) - k * ln2_low;  // |r| ≤ 0.347
    // Taylor, degree 12: the next term is below 2e-16.
    double p = 1.0 / 479001600;
    p = p * r + 1.0 / 39916800;
    p = p * r + 1.0 / 3628800;
    p = p * r + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    const auto exponent = std::bit_cast<std::uint64_t>(shifted) - std::bit_cast<std::uint64_t>(shift) + 1023;
    v = p * std::bit_cast<double>(exponent << 52);
  }
}

// Sum over i of weight(i) · e^argument(i).
template <class Argument, class Weight>
double sum_of_exp(std::size_t n, Argument&& argument, Weight&& weight) {
  std::array<double, lanes> sums{};
  Block terms{};
  for (std::size_t i = 0; i < n; i += block) {
    const std::size_t m = std::min(block, n - i);
    for (std::size_t j = 0; j < m; ++j) terms[j] = argument(i + j);
    exp_of_negative(terms);
    for (std::size_t j = 0; j < m; ++j) terms[j] *= weight(i + j);
    std::fill(terms.begin() + static_cast<std::ptrdiff_t>(m), terms.end(), 0.0);
    for (std::size_t j = 0; j < block; j += lanes) {
      for (std::size_t lane = 0; lane < lanes; ++lane) sums[lane] += terms[j + lane];
    }
  }
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

float largest(std::span<const float> x) {
  std::array<float, lanes> best;
  best.fill(x[0]);
  std::size_t i = 0;
  for (; i + lanes <= x.size(); i += lanes) {
    for (std::size_t lane = 0; lane < lanes; ++lane) best[lane] = best[lane] < x[i + lane] ? x[i + lane] : best[lane];
  }
  for (; i < x.size(); ++i) best[0] = std::max(best[0], x[i]);
  return *std::max_element(best.begin(), best.end());
}

}  // namespace

RowFacts row_facts(std::span<const float> logits, Token target) {
  const float best = largest(logits);
  const double sum = sum_of_exp(
      logits.size(), [x = logits.data(), best](std::size_t i) { return double{x[i]} - best; },
      [](std::size_t) { return 1.0; });
  RowFacts facts;
  facts.log_sum_exp = best + std::log(sum);
  facts.target_logprob = logits[static_cast<std::size_t>(target)] - facts.log_sum_exp;
  facts.top = static_cast<Token>(std::find(logits.begin(), logits.end(), best) - logits.begin());
  return facts;
}

double kl_divergence(std::span<const float> base, double base_log_sum_exp, std::span<const float> model,
                     double model_log_sum_exp) {
  const double offset = base_log_sum_exp - model_log_sum_exp;
  const double sum = sum_of_exp(
      base.size(),
      // A rounding error must not make the argument positive.
      [b = base.data(), base_log_sum_exp](std::size_t i) { return std::min(double{b[i]} - base_log_sum_exp, 0.0); },
      [b = base.data(), m = model.data(), offset](std::size_t i) { return double{b[i]} - double{m[i]} - offset; });
  return std::max(sum, 0.0);
}

}  // namespace r1::eval
