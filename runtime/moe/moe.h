// The feed-forward half of a layer: DeepSeekMoE (arXiv 2401.06066), or one dense MLP.
#pragma once

#include "runtime/model/pass.h"

namespace r1::rt {

// residual += Σ weight_e · expert_e(h) over the chosen experts in order of their ids, then + shared_experts(h).
// h: RMSNorm(residual), quantized. A barrier must follow.
void moe(const numa::Member& member, Pass& pass, const Layer& layer, const simd::Activations& h);

// residual += mlp(h).
void mlp(const numa::Member& member, Pass& pass, const Layer& layer, const Mlp& w, const simd::Activations& h);

}  // namespace r1::rt
