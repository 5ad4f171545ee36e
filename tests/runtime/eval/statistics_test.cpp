// Rows as distributions, and figures from scores, against plain long double arithmetic.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "runtime/eval/log_softmax.h"
#include "runtime/eval/report.h"

using namespace r1;

namespace {

std::vector<float> random_logits(std::size_t n, float sigma, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;  // scaled below: it takes no deviation of 0
  std::vector<float> x(n);
  for (float& v : x) v = normal(random) * sigma + 3.0f;
  return x;
}

long double log_sum_exp(const std::vector<float>& x) {
  const long double best = *std::max_element(x.begin(), x.end());
  long double sum = 0;
  for (const float v : x) sum += std::exp(v - best);
  return best + std::log(sum);
}

}  // namespace

TEST_CASE("log-softmax and KL divergence are those of long double, whatever the length") {
  for (const std::size_t n : {1u, 7u, 64u, 65u, 1152u, 20001u}) {
    for (const float sigma : {0.0f, 1.0f, 9.0f, 400.0f}) {
      CAPTURE(n);
      CAPTURE(sigma);
      const auto p = random_logits(n, sigma, 1), q = random_logits(n, sigma, 2);
      const Token target = static_cast<Token>(n / 2);
      const auto facts = eval::row_facts(p, target), other = eval::row_facts(q, target);
      const long double zp = log_sum_exp(p), zq = log_sum_exp(q);
      CHECK(std::abs(facts.log_sum_exp - static_cast<double>(zp)) < 1e-13 * (1 + std::abs(facts.log_sum_exp)));
      CHECK(facts.target_logprob == p[n / 2] - facts.log_sum_exp);
      CHECK(facts.top == std::max_element(p.begin(), p.end()) - p.begin());
      long double kld = 0;
      for (std::size_t i = 0; i < n; ++i) kld += std::exp(p[i] - zp) * ((p[i] - zp) - (q[i] - zq));
      const double got = eval::kl_divergence(p, facts.log_sum_exp, q, other.log_sum_exp);
      CHECK(std::abs(got - static_cast<double>(kld)) < 1e-13 * (1 + static_cast<double>(kld)));
      CHECK(eval::kl_divergence(p, facts.log_sum_exp, p, facts.log_sum_exp) == 0.0);
    }
  }
}

TEST_CASE("of equally likely tokens the first is the top") {
  const std::vector<float> x = {1, 5, 2, 5, 5, 0, 0, 0, 0, 5};
  CHECK(eval::row_facts(x, 0).top == 1);
}

TEST_CASE("means, quantiles and their errors") {
  const std::vector<double> values = {4, 1, 3, 2, 5};
  CHECK(eval::mean_of(values).value == 3);
  CHECK(eval::mean_of(values).standard_error == doctest::Approx(std::sqrt(2.5 / 5)));
  CHECK(eval::mean_of(std::vector<double>{7}).standard_error == 0);
  std::vector<double> sorted(10001);
  for (std::size_t i = 0; i < sorted.size(); ++i) sorted[i] = static_cast<double>(i) / 10000;
  const auto p90 = eval::quantile_of(sorted, 0.9);
  CHECK(p90.value == doctest::Approx(0.9));
  CHECK(p90.standard_error == doctest::Approx(std::sqrt(0.9 * 0.1 / 10001)).epsilon(1e-6));  // density 1
}

TEST_CASE("a report says what its scores say") {
  std::vector<eval::TokenScore> scores;
  std::mt19937 random(5);
  std::exponential_distribution<double> draw(1.0);
  for (int i = 0; i < 400; ++i) {
    eval::TokenScore s;
    s.base_logprob = -draw(random);
    s.logprob = s.base_logprob - 0.05 * (draw(random) - 0.5);
    s.kld = 0.01 * draw(random);
    s.same_top = i % 10 != 0;
    scores.push_back(s);
  }
  const auto ppl = eval::perplexity_report(scores);
  const auto kld = eval::kld_report(scores);
  CHECK(ppl.n_tokens == 400);
  CHECK(ppl.perplexity.value == doctest::Approx(std::exp(ppl.mean_nll.value)));
  CHECK(ppl.perplexity.standard_error == doctest::Approx(ppl.perplexity.value * ppl.mean_nll.standard_error));
  CHECK(kld.perplexity.value == ppl.perplexity.value);
  CHECK(kld.same_top.value == doctest::Approx(0.9));
  CHECK(kld.same_top.standard_error == doctest::Approx(std::sqrt(0.09 / 399)));
  CHECK(kld.perplexity_ratio.value == doctest::Approx(kld.perplexity.value / kld.base_perplexity.value));
  CHECK(kld.perplexity_delta.value == doctest::Approx(kld.perplexity.value - kld.base_perplexity.value));
  // Both see the same tokens: the difference is known far better than either.
  CHECK(kld.perplexity_delta.standard_error < 0.2 * kld.perplexity.standard_error);
  CHECK(kld.percentiles[0].kld.value < kld.percentiles[1].kld.value);
  CHECK(kld.percentiles[3].kld.value <= kld.max);

  // A model compared with itself.
  for (eval::TokenScore& s : scores) s.logprob = s.base_logprob;
  const auto same = eval::kld_report(scores);
  CHECK(same.perplexity_delta.value == 0);
  CHECK(same.perplexity_ratio.value == 1);
  CHECK(same.perplexity_ratio.standard_error == 0);
}

TEST_CASE("two models are compared by pairs of tokens") {
  std::vector<eval::TokenScore> scores, other;
  std::mt19937 random(6);
  std::exponential_distribution<double> draw(1.0);
  std::vector<std::uint64_t> windows = {0, 100, 150, 400};
  for (std::size_t i = 0; i < 400; ++i) {
    eval::TokenScore s, o;
    o.kld = draw(random);
    s.kld = 0.7 * o.kld + (i < 100 ? 1.0 : 0.0);
    s.same_top = i % 5 != 0;
    o.same_top = i % 4 != 0;
    scores.push_back(s);
    other.push_back(o);
  }
  const auto c = eval::compare(scores, other, windows);
  const double mean = eval::kld_report(scores).mean.value, other_mean = eval::kld_report(other).mean.value;
  CHECK(c.kld.value == doctest::Approx(mean - other_mean));
  CHECK(c.relative_kld.value == doctest::Approx(mean / other_mean - 1));
  CHECK(c.relative_kld.standard_error == doctest::Approx(c.kld.standard_error / other_mean));
  CHECK(c.same_top.value == doctest::Approx(0.05));
  CHECK(c.n_windows_less == 2);
  CHECK(c.kld.standard_error < eval::kld_report(other).mean.standard_error);

  const auto same = eval::compare(other, other, windows);
  CHECK(same.kld.value == 0);
  CHECK(same.kld.standard_error == 0);
  CHECK(same.n_windows_less == 0);
  for (eval::TokenScore& o : other) o.kld = 0;  // the base itself
  CHECK(eval::compare(scores, other, windows).relative_kld.value == 0);
}
