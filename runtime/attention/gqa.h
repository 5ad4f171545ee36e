// Grouped-query attention of the dense models: qwen2 (biases), qwen3 (norms of q and k), llama.
#pragma once

#include "runtime/model/pass.h"

namespace r1::rt {

// residual += o_proj(attention(RMSNorm(residual))). A barrier must follow.
void gqa(const numa::Member& member, Pass& pass, const Layer& layer, std::uint32_t kv_layer);

}  // namespace r1::rt
