// Measures sensitivities: lowers one part of a model at a time and compares its predictions with the model's own.
#pragma once

#include <r1/model.h>
#include <r1/result.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/eval/windows.h"
#include "runtime/model_file/imatrix.h"
#include "runtime/model_file/sensitivity.h"

namespace r1::eval {

struct ProbeOptions {
  int n_threads = 0;  // 0: one per physical core
  std::vector<quant::Format> formats = {quant::Format::t2, quant::Format::t4};
  int layers_per_group = 1;
  const rt::Imatrix* imatrix = nullptr;  // what matrices are encoded with, as in a conversion
  std::string imatrix_path;              // names it in errors
  // A file like the result, rewritten after every measurement, and beside it, .logits, the model's own predictions: an
  // interrupted run goes on with the same bits. The caller removes both (remove_probe_state) when the result is safe.
  std::string state_path;
  std::function<void(std::size_t n_done, std::size_t n_measurements)> on_progress;  // first with what was done before
  const std::atomic<bool>* stop = nullptr;  // set it to end with `cancelled`, behind a window
};

// Measurements depend on model, windows, formats and imatrix alone.
[[nodiscard]] Result<rt::Sensitivity> probe_sensitivity(const std::shared_ptr<const Model>& model,
                                                        const Windows& windows, const ProbeOptions& options);
void remove_probe_state(const std::string& state_path);

}  // namespace r1::eval
