// From scores of tokens to figures with their standard errors. Errors take tokens as independent, as llama.cpp does.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace r1::eval {

// What a model says of one scored token, and beside it what the base says.
struct TokenScore {
  double logprob = 0;       // of the token that came, nats
  double base_logprob = 0;  // 0 without a base, like those below
  double kld = 0;           // KL(base ‖ model) of the predictions, nats
  bool same_top = false;    // both find the same token likeliest
};

struct Estimate {
  double value = 0, standard_error = 0;
};

[[nodiscard]] Estimate mean_of(std::span<const double> values);
// The q-quantile of ascending values (linear between neighbours). Its error is half the distance between the quantiles
// one binomial standard deviation below and above.
[[nodiscard]] Estimate quantile_of(std::span<const double> ascending, double q);

struct PerplexityReport {
  std::uint64_t n_tokens = 0;
  Estimate mean_nll;    // nats per token
  Estimate perplexity;  // exp of that; the error to first order
};

struct Percentile {
  double percent = 0;
  Estimate kld;
};

struct KldReport {
  std::uint64_t n_tokens = 0;
  Estimate mean;
  std::array<Percentile, 4> percentiles;  // 50, 90, 95, 99
  double max = 0;
  Estimate same_top;  // share of tokens, 0 … 1
  Estimate perplexity, base_perplexity;
  Estimate log_perplexity_ratio;  // ln(perplexity / base_perplexity), of paired differences
  Estimate perplexity_ratio, perplexity_delta;
};

// One model beside another of the same tokens and base. Both find easy and hard what the text makes so: differences of
// pairs are far better known than either mean.
struct Comparison {
  Estimate kld;                      // less the other's, nats
  Estimate relative_kld;             // that as a share of the other's mean
  Estimate same_top;                 // less the other's share of tokens
  std::uint32_t n_windows_less = 0;  // whose KLD is less than the other's
};

[[nodiscard]] PerplexityReport perplexity_report(std::span<const TokenScore> scores);
[[nodiscard]] KldReport kld_report(std::span<const TokenScore> scores);
// scores, other [n_tokens]; window_rows [n_windows + 1] as Windows::rows
[[nodiscard]] Comparison compare(std::span<const TokenScore> scores, std::span<const TokenScore> other,
                                 std::span<const std::uint64_t> window_rows);

}  // namespace r1::eval
