// Several MLPs at once: gate and up of all of them as one pool of row panels over the team, then down_proj with the
// weighted sum in its epilogue.
#pragma once

#include <cstdint>
#include <span>

#include "runtime/model/pass.h"

namespace r1::rt {

// residual[token] += weight · mlp(x) for every row of every job, in order of jobs: the order of the sum does not depend
// on who computes what. All members call it with equal jobs. A barrier must follow.
void run_mlps(const numa::Member& member, Pass& pass, const Layer& layer, std::span<const MlpJob> jobs);

}  // namespace r1::rt
