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

// Probabilities under e^-50 of the likeliest are below the resolution of a 53-bit draw.
constexpr double negligible_exponent = -50.0;

// Heap order: the best candidate on top, the lower id first among equals.
bool worse(const Candidate& a, const Candidate& b) {
  return a.first < b.first || (a.first == b.first && a.second > b.second);
}

// e^x for negligible_exponent ≤ x ≤ 0: x = n·ln2 + r with |r| ≤ ln2/2, Taylor of degree 13 (error < 1e-16 there).
double exp_portable(double x) {
  constexpr double log2_e = 1.4426950408889634, ln2_high = 0x1.62e42fefa3800p-1, ln2_low = 0x1.ef35793c76730p-45;
  const double n = std::floor(x * log2_e + 0.5);
  const double r = (x - n * ln2_high) - n * ln2_low;
  double sum = 1.0;
  for (int i = 13; i >= 1; --i) sum = 1.0 + sum * r / i;
  return sum * std::bit_cast<double>(static_cast<std::uint64_t>(1023 + static_cast<int>(n)) << 52);
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
    const double lowest = best + negligible_exponent * options_.temperature;
    candidates_.clear();
    for (std::size_t i = 0; i < logits_.size(); ++i) {
      if (logits_[i] >= lowest) candidates_.emplace_back(logits_[i], static_cast<Token>(i));
    }
    token = draw();
  }
  ++generated_[token];
  return token;
}

// Draws from candidates_, which come in order of ids. Where top-k or top-p need a ranking, only as many as they keep
// are sorted: a heap gives them one after another, best first.
Token Sampler::draw() {
  const double best = std::max_element(candidates_.begin(), candidates_.end(), worse)->first;
  const double temperature = options_.temperature;
  const auto weight = [&](const Candidate& c) { return exp_portable((c.first - best) / temperature); };  // likeliest: 1
  const std::size_t n = candidates_.size();
  const std::size_t top_k =
      options_.top_k == 0 ? n : std::min<std::size_t>(n, static_cast<std::size_t>(options_.top_k));

  kept_.clear();
  double sum = 0;  // of what is kept
  const auto keep = [&](double w, Token token) {
    kept_.emplace_back(w, token);
    sum += w;
  };
  if (top_k == n && options_.top_p >= 1.0f) {
    for (const Candidate& c : candidates_) {
      const double w = weight(c);
      if (w >= options_.min_p) keep(w, c.second);
    }
  } else {
    // Sorted so far: the best `n_sorted`, from the end of candidates_ backwards, which is where pop_heap puts them.
    std::size_t n_sorted = 0;
    const auto sort_one = [&] {
      std::pop_heap(candidates_.begin(), candidates_.end() - static_cast<std::ptrdiff_t>(n_sorted), worse);
      return candidates_[n - ++n_sorted];
    };
    double total = 0;  // of what top-k leaves; in order of ids where that is all, best first otherwise
    if (top_k == n) {
      for (const Candidate& c : candidates_) total += weight(c);
    }
    std::make_heap(candidates_.begin(), candidates_.end(), worse);
    if (top_k < n) {
      while (n_sorted < top_k) total += weight(sort_one());
    }
    const double wanted = options_.top_p * total;
    for (std::size_t i = 0; i < top_k && (options_.top_p >= 1.0f || sum < wanted); ++i) {
      const Candidate c = i < n_sorted ? candidates_[n - 1 - i] : sort_one();
      const double w = weight(c);
      if (w < options_.min_p) break;
      keep(w, c.second);
    }
  }

  const double drawn = rt::uniform(rng_state_) * sum;
  double below = 0;
  for (const auto& [w, token] : kept_) {
    below += w;
    if (below > drawn) return token;
  }
  return kept_.back().second;
}

}  // namespace r1
