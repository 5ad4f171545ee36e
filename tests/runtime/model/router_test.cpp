// The router against a plain reading of the reference: masks, full sorts, double precision.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "runtime/moe/router.h"

using namespace r1::rt;

namespace {

ModelConfig gate(std::uint32_t n_experts, std::uint32_t n_group, std::uint32_t topk_group, std::uint32_t top_k) {
  ModelConfig c;
  c.n_routed_experts = n_experts;
  c.n_group = n_group;
  c.topk_group = topk_group;
  c.num_experts_per_tok = top_k;
  c.routed_scaling_factor = 2.5f;
  return c;
}

struct Choice {
  std::vector<std::uint32_t> ids;
  std::vector<float> weights;
};

Choice choose(const ModelConfig& c, const std::vector<float>& logits, const std::vector<float>& bias) {
  Choice choice{std::vector<std::uint32_t>(c.num_experts_per_tok), std::vector<float>(c.num_experts_per_tok)};
  std::vector<float> scratch(2 * c.n_routed_experts + c.n_group);
  choose_experts(c, logits.data(), bias.empty() ? nullptr : bias.data(), scratch.data(), choice.ids.data(),
                 choice.weights.data());
  return choice;
}

Choice oracle(const ModelConfig& c, const std::vector<float>& logits, const std::vector<float>& bias) {
  const std::size_t n = c.n_routed_experts, size = n / c.n_group;
  std::vector<double> score(n), biased(n);
  for (std::size_t e = 0; e < n; ++e) {
    score[e] = 1 / (1 + std::exp(-static_cast<double>(logits[e])));
    biased[e] = score[e] + (bias.empty() ? 0.0 : static_cast<double>(bias[e]));
  }
  const auto by_score = [](const std::vector<double>& values) {
    std::vector<std::size_t> order(values.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] > values[b]; });
    return order;
  };
  std::vector<double> group(c.n_group);
  for (std::size_t g = 0; g < c.n_group; ++g) {
    std::vector<double> members(biased.begin() + static_cast<long>(g * size),
                                biased.begin() + static_cast<long>((g + 1) * size));
    std::sort(members.rbegin(), members.rend());
    group[g] = members[0] + (size > 1 ? members[1] : 0.0);
  }
  std::set<std::size_t> allowed;
  for (std::size_t i = 0; i < c.topk_group; ++i) allowed.insert(by_score(group)[i]);
  Choice choice;
  for (const std::size_t e : by_score(biased)) {
    if (allowed.count(e / size) != 0 && choice.ids.size() < c.num_experts_per_tok) {
      choice.ids.push_back(static_cast<std::uint32_t>(e));
    }
  }
  std::sort(choice.ids.begin(), choice.ids.end());
  double sum = 0;
  for (const auto id : choice.ids) sum += score[id];
  for (const auto id : choice.ids) {
    choice.weights.push_back(static_cast<float>(score[id] / (c.norm_topk_prob ? sum : 1.0) * c.routed_scaling_factor));
  }
  return choice;
}

}  // namespace

TEST_CASE("router agrees with a naive reading of the reference") {
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0, 1);
  const ModelConfig shapes[] = {gate(256, 8, 4, 8), gate(16, 4, 2, 4), gate(8, 1, 1, 2), gate(6, 6, 3, 2),
                                gate(12, 4, 4, 5)};
  for (ModelConfig c : shapes) {
    for (int round = 0; round < 200; ++round) {
      c.norm_topk_prob = round % 3 != 0;
      std::vector<float> logits(c.n_routed_experts), bias;
      for (float& x : logits) x = normal(random);
      if (round % 2 == 0) {
        for (std::uint32_t e = 0; e < c.n_routed_experts; ++e) bias.push_back(0.3f * normal(random));
      }
      const Choice got = choose(c, logits, bias), expected = oracle(c, logits, bias);
      REQUIRE(got.ids == expected.ids);
      for (std::size_t i = 0; i < got.ids.size(); ++i) CHECK(std::abs(got.weights[i] - expected.weights[i]) < 1e-6f);
    }
  }
}

TEST_CASE("router: equal scores go to the lower ids, the bias chooses but does not weigh") {
  const ModelConfig c = gate(16, 4, 2, 4);
  CHECK(choose(c, std::vector<float>(16, 0.5f), {}).ids == std::vector<std::uint32_t>{0, 1, 2, 3});

  std::vector<float> bias(16, 0.0f);
  bias[9] = bias[10] = 3.0f;
  const Choice choice = choose(c, std::vector<float>(16, 0.5f), bias);
  CHECK(choice.ids == std::vector<std::uint32_t>{0, 1, 9, 10});
  for (const float weight : choice.weights) CHECK(weight == doctest::Approx(2.5 / 4));
}

TEST_CASE("router: NaN and infinity give distinct ids in range") {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  for (const ModelConfig& c : {gate(16, 4, 2, 4), gate(8, 1, 1, 8), gate(8, 8, 2, 2)}) {
    for (const float value : {nan, infinity, -infinity}) {
      for (const bool all : {true, false}) {
        std::vector<float> logits(c.n_routed_experts, all ? value : 0.25f);
        logits[3] = value;
        const Choice choice = choose(c, logits, std::vector<float>(c.n_routed_experts, all ? value : 0.0f));
        CHECK(std::set<std::uint32_t>(choice.ids.begin(), choice.ids.end()).size() == c.num_experts_per_tok);
        for (const auto id : choice.ids) CHECK(id < c.n_routed_experts);
      }
    }
  }
}
