#include "runtime/moe/router.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace r1::rt {
namespace {

// Below every score: what is taken already, or may not be taken.
constexpr float excluded = -std::numeric_limits<float>::infinity();
// The worst score. NaN compares with nothing: the numeric guard reports it, here it only must not lead out of bounds.
constexpr float worst = -1e30f;

// Index of the greatest of score[0 … n), the lowest of equals; never one that is excluded while another is left.
std::uint32_t arg_max(const float* score, std::uint32_t n) {
  std::uint32_t best = 0;
  for (std::uint32_t i = 1; i < n; ++i) {
    if (score[i] > score[best]) best = i;
  }
  return best;
}

// A group is as good as its two best experts together.
float group_score(const float* score, std::uint32_t n) {
  float first = excluded, second = excluded;
  for (std::uint32_t i = 0; i < n; ++i) {
    if (score[i] > first) {
      second = first;
      first = score[i];
    } else if (score[i] > second) {
      second = score[i];
    }
  }
  return n > 1 ? first + second : first;
}

}  // namespace

void choose_experts(const ModelConfig& config, const float* logits, const float* e_score_correction_bias,
                    float* scratch, std::uint32_t* expert_ids, float* weights) {
  const std::uint32_t n_experts = config.n_routed_experts, n_group = config.n_group, top_k = config.num_experts_per_tok;
  const std::uint32_t group_size = n_experts / n_group;
  float* affinity = scratch;               // [n_experts]
  float* choice = scratch + n_experts;     // [n_experts] affinity + bias: decides, but does not weigh
  float* group = scratch + 2 * n_experts;  // [n_group]

  for (std::uint32_t e = 0; e < n_experts; ++e) {
    affinity[e] = 1.0f / (1.0f + std::exp(-logits[e]));
    const float score = affinity[e] + (e_score_correction_bias != nullptr ? e_score_correction_bias[e] : 0.0f);
    choice[e] = score > worst ? score : worst;
  }

  if (n_group > 1 && config.topk_group < n_group) {
    for (std::uint32_t g = 0; g < n_group; ++g) group[g] = group_score(choice + g * group_size, group_size);
    for (std::uint32_t i = 0; i < config.topk_group; ++i)
      group[arg_max(group, n_group)] = excluded;  // may be chosen from
    for (std::uint32_t g = 0; g < n_group; ++g) {
      if (group[g] != excluded) std::fill_n(choice + g * group_size, group_size, excluded);
    }
  }

  for (std::uint32_t i = 0; i < top_k; ++i) {
    expert_ids[i] = arg_max(choice, n_experts);
    choice[expert_ids[i]] = excluded;
  }
  std::sort(expert_ids, expert_ids + top_k);

  float sum = 1e-20f;  // as the reference: no division by zero
  for (std::uint32_t i = 0; i < top_k; ++i) sum += affinity[expert_ids[i]];
  const float scale = config.routed_scaling_factor / (config.norm_topk_prob ? sum : 1.0f);
  for (std::uint32_t i = 0; i < top_k; ++i) weights[i] = affinity[expert_ids[i]] * scale;
}

}  // namespace r1::rt
