// Rows of logits as distributions, in double precision. All sums run in an order that depends on the length alone.
#pragma once

#include <r1/types.h>

#include <span>

namespace r1::eval {

// What a row says, and what it says of the token that came.
struct RowFacts {
  double log_sum_exp = 0;     // log-probability of token t: logits[t] − log_sum_exp
  double target_logprob = 0;  // nats
  Token top = 0;              // the likeliest; of equals the one with the lowest id
};

[[nodiscard]] RowFacts row_facts(std::span<const float> logits, Token target);

// KL(base ‖ model) in nats, of rows [vocab_size] with their log_sum_exp.
[[nodiscard]] double kl_divergence(std::span<const float> base, double base_log_sum_exp, std::span<const float> model,
                                   double model_log_sum_exp);

}  // namespace r1::eval
