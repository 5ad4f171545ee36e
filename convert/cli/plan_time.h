// How long a plan's encoding takes on this machine.
#pragma once

#include <cstddef>

#include "convert/plan.h"
#include "runtime/model_file/imatrix.h"

namespace r1::convert {

struct PlanTime {
  double seconds = 0;
  std::size_t n_feedback_inputs = 0;  // inputs whose moments are factored
};

// Measured now, one core, on random weights. With importance (null: none), what its moments make encoding cost is
// counted: factoring those of each input, and feeding errors forward.
[[nodiscard]] PlanTime estimated_time(const ConversionPlan& plan, const rt::Importance* importance, int n_threads);

}  // namespace r1::convert
