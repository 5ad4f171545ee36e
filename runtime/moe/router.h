// Which experts a token goes to: DeepSeek-V3's auxiliary-loss-free gate ("noaux_tc"; arXiv 2412.19437, section 2.1.2).
#pragma once

#include <cstdint>

#include "runtime/model_file/config.h"

namespace r1::rt {

// Affinities are the sigmoids of the logits. The correction bias (null: none) and the limit to topk_group groups decide
// who is chosen; the weights come from the affinities alone. Ties go to the lower id. Any input, NaN too, gives valid
// ids.
//   logits        [n_routed_experts]
//   scratch       [2 · n_routed_experts + n_group]
//   expert_ids    [num_experts_per_tok] ascending
//   weights       [num_experts_per_tok] normalised (norm_topk_prob), times routed_scaling_factor
void choose_experts(const ModelConfig& config, const float* logits, const float* e_score_correction_bias,
                    float* scratch, std::uint32_t* expert_ids, float* weights);

}  // namespace r1::rt
