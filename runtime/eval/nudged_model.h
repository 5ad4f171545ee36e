// A model with some of its matrices changed by next to nothing.
#pragma once

#include <r1/model.h>
#include <r1/result.h>

#include <memory>

#include "runtime/eval/item_parts.h"

namespace r1::eval {

// Rows of the item's matrices scaled by 1 ± 2⁻¹⁰, bf16 weights moved to a neighbour; all else shared with `model`. What
// this costs tells of the values rounded behind them: its own share goes with the square of the error, and t4's is some
// 70 times as large.
[[nodiscard]] Result<std::shared_ptr<const Model>> nudge(const Model& model, ItemParts parts);

}  // namespace r1::eval
