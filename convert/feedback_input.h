// Which matrices are encoded with error feedback (quant/feedback.h), and of which input's moments.
#pragma once

#include "quant/encode.h"
#include "runtime/model_file/imatrix.h"

namespace r1::convert {

// The input whose moments a part's feedback is made of; null if it has none.
[[nodiscard]] inline const rt::ImatrixInput* feedback_input(const rt::Importance* importance, const rt::BlobSpec& spec,
                                                            const rt::MatrixSpec& matrix, quant::Format format) {
  if (importance == nullptr || !quant::takes_feedback(format)) return nullptr;
  return importance->moments(spec, matrix);
}

}  // namespace r1::convert
