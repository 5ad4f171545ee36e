// The sampler against a second, naive implementation (full sort, long double, std::exp) that shares only the random
// generator, whose own vectors come from its authors' code.
#include <doctest/doctest.h>
#include <r1/sampler.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "runtime/sampler/random.h"

using r1::ErrorCode;
using r1::Sampler;
using r1::SamplingOptions;
using r1::Token;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// Probabilities after every operation, by id, and in ranking order for the draw.
struct Naive {
  std::vector<Token> order;              // likeliest first, or by id where nothing is ranked
  std::vector<long double> probability;  // of order[i], not normalised
};

Naive naive(std::vector<float> logits, const SamplingOptions& o, const std::vector<Token>& prompt,
            const std::vector<Token>& generated) {
  const std::size_t n = logits.size();
  for (std::size_t id = 0; id < n; ++id) {
    const auto token = static_cast<Token>(id);
    const auto count = std::count(generated.begin(), generated.end(), token);
    if (count > 0 || std::count(prompt.begin(), prompt.end(), token) > 0) {
      logits[id] = logits[id] > 0 ? logits[id] / o.repetition_penalty : logits[id] * o.repetition_penalty;
    }
    logits[id] -= o.frequency_penalty * static_cast<float>(count);
    if (count > 0) logits[id] -= o.presence_penalty;
    for (const auto& [biased, bias] : o.logit_bias) {
      if (biased == token) logits[id] += bias;
    }
  }
  std::vector<Token> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](Token a, Token b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  const long double top = logits[static_cast<std::size_t>(order[0])];
  std::vector<long double> p;
  for (const Token t : order) p.push_back(std::exp((logits[static_cast<std::size_t>(t)] - top) / o.temperature));
  if (o.top_k > 0 && static_cast<std::size_t>(o.top_k) < n) p.resize(static_cast<std::size_t>(o.top_k));
  const long double total = std::accumulate(p.begin(), p.end(), 0.0L);
  std::size_t kept = 0;
  for (long double sum = 0; kept < p.size() && (o.top_p >= 1 || sum < o.top_p * total); ++kept) sum += p[kept];
  p.resize(kept);
  while (p.size() > 1 && p.back() < o.min_p) p.pop_back();
  order.resize(p.size());
  return {order, p};
}

std::vector<float> random_logits(std::size_t n, std::uint32_t seed, float spread) {
  std::mt19937 random(seed);
  std::vector<float> logits(n);
  for (float& l : logits) {
    float sum = 0;
    for (int i = 0; i < 4; ++i) sum += static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
    l = spread * sum;
  }
  return logits;
}

Sampler make(const SamplingOptions& options) {
  auto sampler = Sampler::create(options);
  REQUIRE(sampler.ok());
  return *std::move(sampler);
}

SamplingOptions plain() {
  SamplingOptions o;
  o.temperature = 1;
  o.top_p = 1;
  return o;
}

}  // namespace

TEST_CASE("sampler: the generator gives its authors' numbers") {
  std::uint64_t state = 1234567;
  CHECK(r1::rt::splitmix64(state) == 6457827717110365317u);
  CHECK(r1::rt::splitmix64(state) == 3203168211198807973u);
  std::uint64_t s[4] = {1, 2, 3, 4};
  CHECK(r1::rt::xoshiro256(s) == 11520u);
  CHECK(r1::rt::xoshiro256(s) == 0u);
  CHECK(r1::rt::xoshiro256(s) == 1509978240u);
  CHECK(r1::rt::xoshiro256(s) == 1215971899390074240u);
}

TEST_CASE("sampler: every draw is the naive implementation's") {
  struct Variant {
    float temperature, top_p;
    int top_k;
    float min_p, repetition, presence, frequency;
    bool bias;
  };
  const Variant variants[] = {
      {1.0f, 1.0f, 0, 0, 1, 0, 0, false},
      {0.6f, 0.95f, 0, 0, 1, 0, 0, false},
      {0.7f, 0.8f, 20, 0, 1.05f, 0, 0, false},
      {1.5f, 0.5f, 5, 0.1f, 1, 0, 0, true},
      {1.0f, 1.0f, 0, 0.2f, 1.3f, 0.5f, 0.2f, true},
      {0.3f, 1.0f, 7, 0, 0.8f, -1, -0.3f, false},
      {5.0f, 0.999f, 0, 0, 1, 2, 2, true},
      {0.01f, 0.3f, 0, 0, 1, 0, 0, false},
      {1.0f, 1.0f, 1, 0, 1, 0, 0, false},
      {1.0f, 1e-6f, 0, 1, 1, 0, 0, true},
      {2.0f, 0.9f, 1000000, 0.05f, 1.1f, 0.1f, 0, false},
  };
  std::uint32_t seed = 0;
  for (const Variant& v : variants) {
    for (const std::size_t n_vocab : {std::size_t{1}, std::size_t{2}, std::size_t{50}, std::size_t{3000}}) {
      ++seed;
      SamplingOptions o;
      o.temperature = v.temperature, o.top_p = v.top_p, o.top_k = v.top_k, o.min_p = v.min_p;
      o.repetition_penalty = v.repetition, o.presence_penalty = v.presence, o.frequency_penalty = v.frequency;
      o.seed = seed;
      if (v.bias) o.logit_bias = {{0, 3.0f}, {static_cast<Token>(n_vocab - 1), -2.5f}, {0, -1.0f}};
      Sampler sampler = make(o);
      const std::vector<Token> prompt = {0, 0, static_cast<Token>(n_vocab / 2)};
      sampler.see_prompt(prompt);
      std::uint64_t random[4];
      r1::rt::seed_xoshiro256(random, o.seed);
      std::vector<Token> generated;
      for (std::uint32_t step = 0; step < 40; ++step) {
        std::vector<float> logits = random_logits(n_vocab, seed * 100 + step, 2.0f);
        if (n_vocab > 2) logits[1] = -infinity;
        const Naive expected = naive(logits, o, prompt, generated);
        const auto token = sampler.sample(logits);
        REQUIRE(token.ok());

        // The draw walks the kept tokens by rank, or by id where neither top-k nor top-p had to rank them.
        std::vector<std::size_t> walk(expected.order.size());
        std::iota(walk.begin(), walk.end(), 0);
        if (o.top_p >= 1 && (o.top_k == 0 || static_cast<std::size_t>(o.top_k) >= n_vocab)) {
          std::sort(walk.begin(), walk.end(), [&](auto a, auto b) { return expected.order[a] < expected.order[b]; });
        }
        const long double sum = std::accumulate(expected.probability.begin(), expected.probability.end(), 0.0L);
        const long double drawn = r1::rt::uniform(random) * sum;
        long double below = 0;
        Token chosen = expected.order[walk.back()];
        for (const std::size_t i : walk) {
          below += expected.probability[i];
          if (below > drawn) {
            chosen = expected.order[i];
            break;
          }
        }
        CAPTURE(seed);
        CAPTURE(step);
        REQUIRE(*token == chosen);
        generated.push_back(*token);
      }
    }
  }
}

TEST_CASE("sampler: draws follow the distribution") {
  // 4 tokens with probabilities 1/2, 1/4, 1/8, 1/8: χ² with 3 degrees of freedom stays under 16.3 in 99.9 % of seeds,
  // and the seed is fixed.
  SamplingOptions o = plain();
  o.seed = 42;
  Sampler sampler = make(o);
  const std::vector<float> logits = {std::log(0.5f), std::log(0.25f), std::log(0.125f), std::log(0.125f)};
  const double expected[] = {0.5, 0.25, 0.125, 0.125};
  const int n = 100000;
  std::map<Token, int> counts;
  for (int i = 0; i < n; ++i) ++counts[*sampler.sample(logits)];
  double chi2 = 0;
  for (Token t = 0; t < 4; ++t) chi2 += std::pow(counts[t] - n * expected[t], 2) / (n * expected[t]);
  CHECK(chi2 < 16.3);

  o.top_k = 2;
  Sampler two = make(o);
  counts.clear();
  for (int i = 0; i < n; ++i) ++counts[*two.sample(logits)];
  CHECK(counts.size() == 2);
  CHECK(std::abs(counts[0] - n * 2 / 3) < 700);  // 4.7 σ
}

TEST_CASE("sampler: greedy takes the largest, the lower id among equals") {
  SamplingOptions o = plain();
  o.temperature = 0;
  Sampler sampler = make(o);
  CHECK(*sampler.sample(std::vector<float>{1, 3, 2, 3}) == 1);
  CHECK(*sampler.sample(std::vector<float>{-infinity, -5, -5}) == 1);
  CHECK(*sampler.sample(std::vector<float>{0.0f, -0.0f}) == 0);

  o.presence_penalty = 1.5f;
  o.logit_bias = {{3, 0.5f}};
  Sampler penalised = make(o);
  const std::vector<float> logits = {0, 2, 1, 1};
  CHECK(*penalised.sample(logits) == 1);
  CHECK(*penalised.sample(logits) == 3);
  CHECK(*penalised.sample(logits) == 2);
  penalised.forget();
  CHECK(*penalised.sample(logits) == 1);

  o = plain();
  o.temperature = 0;
  o.repetition_penalty = 2;
  Sampler repeated = make(o);
  repeated.see_prompt(std::vector<Token>{1, -7, 99});
  CHECK(*repeated.sample(std::vector<float>{1.5f, 2.5f}) == 0);
}

TEST_CASE("sampler: the seed decides, and a copy goes on alike") {
  SamplingOptions o = plain();
  o.seed = 7;
  const auto logits = random_logits(129280, 5, 1.0f);
  Sampler a = make(o), b = make(o);
  o.seed = 8;
  Sampler other = make(o);
  std::vector<Token> from_a, from_other;
  for (int i = 0; i < 8; ++i) {
    from_a.push_back(*a.sample(logits));
    CHECK(from_a.back() == *b.sample(logits));
    from_other.push_back(*other.sample(logits));
  }
  CHECK(from_a != from_other);
  Sampler copy = a;
  for (int i = 0; i < 8; ++i) CHECK(*a.sample(logits) == *copy.sample(logits));
}

TEST_CASE("sampler: text of a seed never changes") {
  // Recorded once; a change means that saved seeds give other texts on this machine or another.
  SamplingOptions o;
  o.seed = 20250120;
  Sampler sampler = make(o);
  std::vector<Token> tokens;
  for (std::uint32_t step = 0; step < 12; ++step) tokens.push_back(*sampler.sample(random_logits(1000, step, 2.0f)));
  std::string text;
  for (const Token t : tokens) text += std::to_string(t) + ' ';
  CHECK(text == "413 53 268 821 481 709 249 933 672 998 109 804 ");
}

TEST_CASE("sampler: broken predictions are errors") {
  Sampler sampler = make(plain());
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::vector<float>& logits :
       {std::vector<float>{1, nan, 2}, std::vector<float>{nan}, std::vector<float>{1, infinity},
        std::vector<float>{-infinity, -infinity}, std::vector<float>{}}) {
    const auto token = sampler.sample(logits);
    REQUIRE(!token.ok());
    CHECK(token.error().code == ErrorCode::numeric);
  }
  CHECK(sampler.sample(std::vector<float>{1, nan, 2}).error().message.find("NaN at token 1") != std::string::npos);

  SamplingOptions o = plain();
  o.logit_bias = {{5, 1.0f}};
  const auto token = make(o).sample(std::vector<float>{1, 2});
  REQUIRE(!token.ok());
  CHECK(token.error().message == "logit_bias names token 5, but the vocabulary has 2 tokens");

  // Logits near the end of float's range that a penalty pushes over it.
  o = plain();
  o.repetition_penalty = 0.01f;
  Sampler extreme = make(o);
  extreme.see_prompt(std::vector<Token>{0});
  CHECK(!extreme.sample(std::vector<float>{3e38f, 0}).ok());
}

TEST_CASE("sampler: an option out of range is named") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto rejects = [](const std::string& name, auto change) {
    SamplingOptions o = plain();
    change(o);
    const auto sampler = Sampler::create(o);
    CAPTURE(name);
    REQUIRE(!sampler.ok());
    CHECK(sampler.error().code == ErrorCode::invalid_argument);
    CHECK(sampler.error().message.starts_with(name + " is "));
  };
  for (const float bad : {-0.1f, 101.0f, nan, infinity}) {
    rejects("temperature", [&](SamplingOptions& o) { o.temperature = bad; });
    rejects("presence_penalty", [&](SamplingOptions& o) { o.presence_penalty = bad < 0 ? -2.1f : bad; });
    rejects("frequency_penalty", [&](SamplingOptions& o) { o.frequency_penalty = bad < 0 ? -2.1f : bad; });
    rejects("min_p", [&](SamplingOptions& o) { o.min_p = bad; });
    rejects("repetition_penalty", [&](SamplingOptions& o) { o.repetition_penalty = bad; });
    rejects("logit_bias", [&](SamplingOptions& o) { o.logit_bias = {{1, bad < 0 ? -100.5f : bad}}; });
  }
  for (const float bad : {0.0f, -1.0f, 1.01f, nan}) rejects("top_p", [&](SamplingOptions& o) { o.top_p = bad; });
  rejects("top_k", [](SamplingOptions& o) { o.top_k = -1; });
  rejects("logit_bias", [](SamplingOptions& o) { o.logit_bias = {{-1, 0.0f}}; });
}
