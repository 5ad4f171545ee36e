// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1; V3, 2412.19437, section 2.1.1) in its
// absorbed form.
#pragma once

#include "runtime/model/pass.h"

namespace r1::rt {

// residual += o_proj(attention(RMSNorm(residual))). A barrier must follow.
void mla(const numa::Member& member, Pass& pass, const Layer& layer, std::uint32_t kv_layer);

}  // namespace r1::rt
