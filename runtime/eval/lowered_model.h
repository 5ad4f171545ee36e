// A model with some of its matrices in another format, encoded in memory.
#pragma once

#include <r1/model.h>
#include <r1/result.h>

#include <memory>

#include "numa/thread_team.h"
#include "quant/format.h"
#include "runtime/model_file/imatrix.h"
#include "runtime/model_file/sensitivity.h"

namespace r1::eval {

struct LoweredModel {
  std::shared_ptr<const Model> model;
  double error = 0;  // relative, of the weights that were encoded again: rt::Lowered::error
};

// The item's matrices at `format`, all else shared with `model`. importance may be null. The bytes do not depend on the
// team.
[[nodiscard]] Result<LoweredModel> lower(const Model& model, const rt::SensitivityItem& item, quant::Format format,
                                         const rt::Importance* importance, numa::ThreadTeam& team);

}  // namespace r1::eval
