// One transformer layer: x ← x + Attention(RMSNorm(x)); x ← x + FFN(RMSNorm(x)).
#pragma once

#include "runtime/model/pass.h"

namespace r1::rt {

// Runs the layer on scratch.residual. kv_layer: the layer's place in the KV cache. False: stop here (cancelled, or
// something went wrong); all members get the same answer.
[[nodiscard]] bool run_layer(const numa::Member& member, Pass& pass, const Layer& layer, std::uint32_t kv_layer);

// Projects the attention's heads back and adds them to the residual stream. A barrier must follow.
void project_heads(const numa::Member& member, Pass& pass, const Layer& layer, const Matrix& o_proj);

}  // namespace r1::rt
