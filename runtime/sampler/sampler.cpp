// Order of operations, as in Hugging Face's LogitsProcessorList and vLLM's sampler:
//   repetition penalty → frequency, presence penalty → logit bias → temperature → top-k → top-p → min-p → draw.
// - repetition penalty (Keskar et al. 2019, CTRL): tokens of prompt and answer, once each; HF
// RepetitionPenaltyLogitsProcessor.
// - frequency, presence: tokens of the answer only; OpenAI's definition, vLLM's apply_penalties.
// - top-p: the shortest list of likeliest tokens whose probability reaches top_p, taken of what top-k left
//   (HF TopPLogitsWarper); never empty.
// - min-p: drops tokens less likely than min_p times the likeliest (HF MinPLogitsWarper).
// Ties go to the lower id throughout. Everything after the logits is double arithmetic in a fixed order, with an own
// exp, so that the draw does not depend on the C library.

#include <r1/sampler.h>

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "runtime/base/try.h"
#include "runtime/sampler/random.h"

namespace r1 {
namespace {

using Candidate = std::pair<float, Token>;

// Probabilities under e^-50 of the likeliest are below the resolution of a 53-bit draw, even all together.
constexpr double negligible_exponent = -50.0;

// The likelier one, or the lower id among equals.
bool better(const Candidate& a, const Candidate& b) {
  return a.first > b.first || (a.first == b.first && a.second < b.second);
}
bool worse(const Candidate& a, const Candidate& b) {
  return better(b, a);
}

// e^x for x ≤ 0, and 0 under negligible_exponent. x = n·ln2 + r with |r| ≤ ln2/2; Taylor of degree 13 (error < 1e-16).
// Free of branches, so that compilers vectorize it; each operation is exactly rounded, so that they all agree.
inline double exp_portable(double x) {
  constexpr double log2_e = 1.4426950408889634, ln2_high = 0x1.62e42fefa3800p-1, ln2_low = 0x1.ef35793c76730p-45;
  constexpr double rounder = 0x1.8p52;  // adding it leaves the nearest integer in the lowest bits
  constexpr double c[] = {
      1.0,        1.0,         1.0 / 2,      1.0 / 6,       1.0 / 24,       1.0 / 120,       1.0 / 720,
      1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
  const double bounded = x < negligible_exponent ? negligible_exponent : x;
  const double shifted = bounded * log2_e + rounder;
  const double n = shifted - rounder;
  const double r = (bounded - n * ln2_high) - n * ln2_low;
  double sum = c[13];
  for (int i = 12; i >= 0; --i) sum = sum * r + c[i];
  const double power = std::bit_cast<double>((std::bit_cast<std::uint64_t>(shifted) + 1023) << 52);  // 2^n
  return x < negligible_exponent ? 0.0 : sum * power;
}

Error out_of_range(const char* option, double value, const char* range) {
  return Error{ErrorCode::invalid_argument, fmt::format("{} is {}, but must be {}", option, value, range), ""};
}

// False for NaN as well.
bool within(double value, double low, double high) {
  return value >= low && value <= high;
}

}  // namespace

Sampler::Sampler(const SamplingOptions& options) : options_(options) {
  rt::seed_xoshiro256(rng_state_, options.seed);
}

Result<Sampler> Sampler::create(const SamplingOptions& o) {
  if (!within(o.temperature, 0, 100)) return out_of_range("temperature", o.temperature, "0 (greedy) to 100");
  if (!within(o.top_p, 0, 1) || o.top_p == 0) return out_of_range("top_p", o.top_p, "above 0 and at most 1 (off)");
  if (o.top_k < 0) return out_of_range("top_k", o.top_k, "0 (off) or more");
  if (!within(o.min_p, 0, 1)) return out_of_range("min_p", o.min_p, "0 (off) to 1");
  if (!within(o.repetition_penalty, 0.01f, 100)) {
    return out_of_range("repetition_penalty", o.repetition_penalty, "0.01 to 100 (1: off)");
  }
  if (!within(o.presence_penalty, -2, 2)) {
    return out_of_range("presence_penalty", o.presence_penalty, "-2 to 2 (0: off)");
  }
  if (!within(o.frequency_penalty, -2, 2)) {
    return out_of_range("frequency_penalty", o.frequency_penalty, "-2 to 2 (0: off)");
  }
  for (const auto& [token, bias] : o.logit_bias) {
    if (token < 0) return out_of_range("logit_bias", token, "of a token id, 0 or more");
    if (!within(bias, -100, 100)) return out_of_range("logit_bias", bias, "-100 to 100");
  }
  return Sampler(o);
}

void Sampler::see_prompt(std::span<const Token> tokens) {
  if (options_.repetition_penalty != 1.0f) prompt_.insert(tokens.begin(), tokens.end());
}

void Sampler::forget() {
  generated_.clear();
  prompt_.clear();
}

// Fills logits_ with penalties and bias applied. Ids outside the vocabulary can come from a prompt only by a caller's
// mistake, and change nothing; in logit_bias they are an error.
Result<void> Sampler::adjust(std::span<const float> logits) {
  logits_.assign(logits.begin(), logits.end());
  const auto known = [&](Token token) { return token >= 0 && static_cast<std::size_t>(token) < logits_.size(); };
  const auto repeat = [&](Token token) {
    float& logit = logits_[static_cast<std::size_t>(token)];
    logit = logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
  };
  if (options_.repetition_penalty != 1.0f) {
    for (const Token token : prompt_) {
      if (known(token) && !generated_.contains(token)) repeat(token);
    }
    for (const auto& [token, count] : generated_) {
      if (known(token)) repeat(token);
    }
  }
  if (options_.frequency_penalty != 0.0f || options_.presence_penalty != 0.0f) {
    for (const auto& [token, count] : generated_) {
      if (!known(token)) continue;
      float& logit = logits_[static_cast<std::size_t>(token)];
      logit -= options_.frequency_penalty * static_cast<float>(count);
      logit -= options_.presence_penalty;
    }
  }
  for (const auto& [token, bias] : options_.logit_bias) {
    if (!known(token)) {
      return Error{ErrorCode::invalid_argument,
                   fmt::format("logit_bias names token {}, but the vocabulary has {} tokens", token, logits_.size()),
                   ""};
    }
    logits_[static_cast<std::size_t>(token)] += bias;
  }
  return {};
}

Result<Token> Sampler::sample(std::span<const float> logits) {
  R1_CHECK(adjust(logits));
  float best = -std::numeric_limits<float>::infinity();
  bool all_below_infinity = true;
  for (const float logit : logits_) {
    all_below_infinity &= logit < std::numeric_limits<float>::infinity();  // false for NaN
    best = logit > best ? logit : best;
  }
  if (!all_below_infinity) {
    const auto bad = std::find_if_not(logits_.begin(), logits_.end(),
                                      [](float x) { return x < std::numeric_limits<float>::infinity(); });
    return Error{ErrorCode::numeric,
                 fmt::format("the model's prediction holds {} at token {}", *bad > 0 ? "infinity" : "NaN",
                             bad - logits_.begin()),
                 ""};
  }
  if (best == -std::numeric_limits<float>::infinity()) {
    return Error{ErrorCode::numeric, "the model's prediction allows no token (every logit is -infinity)", ""};
  }

  Token token;
  if (options_.temperature == 0.0f) {
    token = static_cast<Token>(std::find(logits_.begin(), logits_.end(), best) - logits_.begin());
  } else {
    token = draw(best);
  }
  ++generated_[token];
  return token;
}

// Draws from logits_, whose largest is `best`. Weights are probabilities relative to the likeliest. Only as many tokens
// are sorted as top-k and top-p keep.
Token Sampler::draw(float best) {
  const double temperature = options_.temperature, top_p = options_.top_p, min_p = options_.min_p;
  const auto weight = [&](float logit) {
    return exp_portable((static_cast<double>(logit) - static_cast<double>(best)) / temperature);
  };
  const auto top_k = static_cast<std::size_t>(options_.top_k);
  const bool cuts_k = top_k > 0 && top_k < logits_.size(), cuts_p = top_p < 1.0;

  kept_.clear();
  double total = 0;  // of what top-k leaves
  if (cuts_k) {
    find_top_k(top_k);
    for (const auto& [logit, token] : candidates_) {
      kept_.emplace_back(weight(logit), token);
      total += kept_.back().first;
    }
  } else {
    weights_.resize(logits_.size());
    for (std::size_t i = 0; i < logits_.size(); ++i) weights_[i] = weight(logits_[i]);
    for (const double w : weights_) total += w;
    if (cuts_p) {
      find_nucleus(top_p * total, (1.0 - top_p) * total);
    } else {
      for (std::size_t i = 0; i < weights_.size(); ++i) kept_.emplace_back(weights_[i], static_cast<Token>(i));
    }
  }

  double sum = 0;  // of what top-p and min-p leave
  std::size_t n_kept = 0;
  for (const auto& [w, token] : kept_) {
    if (cuts_p && sum >= top_p * total) break;
    if (w < min_p || w == 0.0) continue;
    sum += w;
    kept_[n_kept++] = {w, token};
  }
  const double drawn = rt::uniform(rng_state_) * sum;
  double below = 0;
  for (std::size_t i = 0; i < n_kept; ++i) {
    below += kept_[i].first;
    if (below > drawn) return kept_[i].second;
  }
  return kept_[n_kept - 1].second;
}

// candidates_ = the k best, best first: a heap of the best so far, the worst of them on top.
void Sampler::find_top_k(std::size_t k) {
  candidates_.clear();
  for (std::size_t i = 0; i < logits_.size(); ++i) {
    const Candidate c{logits_[i], static_cast<Token>(i)};
    if (candidates_.size() == k) {
      if (!better(c, candidates_.front())) continue;
      std::pop_heap(candidates_.begin(), candidates_.end(), better);
      candidates_.back() = c;
    } else {
      candidates_.push_back(c);
    }
    std::push_heap(candidates_.begin(), candidates_.end(), better);
  }
  std::sort(candidates_.begin(), candidates_.end(), better);
}

// kept_ = the best tokens, best first, until their weights reach `wanted`; `rest` is what the others weigh at most.
// Tokens lighter than rest / (2 n) weigh less than rest together: none of them is needed, and they need no sorting.
void Sampler::find_nucleus(double wanted, double rest) {
  const double lightest = rest / (2.0 * static_cast<double>(weights_.size()));
  candidates_.clear();
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i] >= lightest) candidates_.emplace_back(logits_[i], static_cast<Token>(i));
  }
  std::make_heap(candidates_.begin(), candidates_.end(), worse);
  double sum = 0;
  while (sum < wanted && !candidates_.empty()) {
    std::pop_heap(candidates_.begin(), candidates_.end(), worse);
    const Token token = candidates_.back().second;
    candidates_.pop_back();
    kept_.emplace_back(weights_[static_cast<std::size_t>(token)], token);
    sum += kept_.back().first;
  }
}

}  // namespace r1
