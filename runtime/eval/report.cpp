#include "runtime/eval/report.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

namespace r1::eval {
namespace {

double mean(std::span<const double> values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return values.empty() ? 0.0 : sum / static_cast<double>(values.size());
}

template <class Get>
std::vector<double> column(std::span<const TokenScore> scores, Get&& get) {
  std::vector<double> values;
  values.reserve(scores.size());
  for (const TokenScore& score : scores) values.push_back(get(score));
  return values;
}

double interpolated(std::span<const double> ascending, double q) {
  const double place = std::clamp(q, 0.0, 1.0) * static_cast<double>(ascending.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, ascending.size() - 1);
  return ascending[below] + (place - static_cast<double>(below)) * (ascending[above] - ascending[below]);
}

Estimate exp_of(const Estimate& x) {
  const double value = std::exp(x.value);
  return {value, value * x.standard_error};
}

// Covariance of the means of a and b.
double covariance_of_means(std::span<const double> a, std::span<const double> b) {
  if (a.size() < 2) return 0;
  const double mean_a = mean(a), mean_b = mean(b);
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - mean_a) * (b[i] - mean_b);
  const auto n = static_cast<double>(a.size());
  return sum / (n - 1) / n;
}

}  // namespace

Estimate mean_of(std::span<const double> values) {
  return {mean(values), std::sqrt(covariance_of_means(values, values))};
}

Estimate quantile_of(std::span<const double> ascending, double q) {
  if (ascending.empty()) return {};
  const double width = std::sqrt(q * (1 - q) / static_cast<double>(ascending.size()));
  return {interpolated(ascending, q), (interpolated(ascending, q + width) - interpolated(ascending, q - width)) / 2};
}

PerplexityReport perplexity_report(std::span<const TokenScore> scores) {
  PerplexityReport report;
  report.n_tokens = scores.size();
  report.mean_nll = mean_of(column(scores, [](const TokenScore& s) { return -s.logprob; }));
  report.perplexity = exp_of(report.mean_nll);
  return report;
}

KldReport kld_report(std::span<const TokenScore> scores) {
  KldReport report;
  report.n_tokens = scores.size();
  std::vector<double> kld = column(scores, [](const TokenScore& s) { return s.kld; });
  report.mean = mean_of(kld);
  std::sort(kld.begin(), kld.end());
  constexpr std::array percents = {50.0, 90.0, 95.0, 99.0};
  for (std::size_t i = 0; i < percents.size(); ++i) {
    report.percentiles[i] = {percents[i], quantile_of(kld, percents[i] / 100)};
  }
  report.max = kld.empty() ? 0.0 : kld.back();
  report.same_top = mean_of(column(scores, [](const TokenScore& s) { return s.same_top ? 1.0 : 0.0; }));

  const std::vector<double> nll = column(scores, [](const TokenScore& s) { return -s.logprob; });
  const std::vector<double> base_nll = column(scores, [](const TokenScore& s) { return -s.base_logprob; });
  report.perplexity = exp_of(mean_of(nll));
  report.base_perplexity = exp_of(mean_of(base_nll));
  report.log_perplexity_ratio = mean_of(column(scores, [](const TokenScore& s) { return s.base_logprob - s.logprob; }));
  report.perplexity_ratio = exp_of(report.log_perplexity_ratio);
  // The two perplexities are of the same tokens: their errors cancel in part.
  const double a = report.perplexity.value, b = report.base_perplexity.value;
  const double variance = a * a * covariance_of_means(nll, nll) + b * b * covariance_of_means(base_nll, base_nll) -
                          2 * a * b * covariance_of_means(nll, base_nll);
  report.perplexity_delta = {a - b, std::sqrt(std::max(variance, 0.0))};
  return report;
}

Comparison compare(std::span<const TokenScore> scores, std::span<const TokenScore> other,
                   std::span<const std::uint64_t> window_rows) {
  std::vector<double> kld, same_top;
  double other_kld = 0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    kld.push_back(scores[i].kld - other[i].kld);
    same_top.push_back(static_cast<double>(scores[i].same_top) - static_cast<double>(other[i].same_top));
    other_kld += other[i].kld;
  }
  Comparison result;
  result.kld = mean_of(kld);
  result.same_top = mean_of(same_top);
  const double other_mean = other_kld / static_cast<double>(scores.size());
  if (other_mean > 0) {  // not of a model that is its base
    result.relative_kld = {result.kld.value / other_mean, result.kld.standard_error / other_mean};
  }
  for (std::size_t window = 0; window + 1 < window_rows.size(); ++window) {
    const auto begin = kld.begin() + static_cast<std::ptrdiff_t>(window_rows[window]),
               end = kld.begin() + static_cast<std::ptrdiff_t>(window_rows[window + 1]);
    if (std::accumulate(begin, end, 0.0) < 0) ++result.n_windows_less;
  }
  return result;
}

}  // namespace r1::eval
