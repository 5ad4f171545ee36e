// Collects an importance matrix: runs text through a model and adds up the squares of what its matrices multiply.
#pragma once

#include <r1/model.h>
#include <r1/result.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "runtime/eval/windows.h"
#include "runtime/model_file/imatrix.h"

namespace r1::eval {

// Each window of the text is run from an empty cache.
struct CollectOptions {
  int n_threads = 0;  // 0: one per physical core
  rt::MomentsWanted moments;
  std::uint64_t memory_bytes = 0;  // that moments may take; 0: what the machine has free
  std::string state_path;  // "": keep no state. Written every `save_seconds`, read again if it is of the same work
  double save_seconds = 60;
  std::function<void(std::uint64_t n_done, std::uint64_t n_windows)> on_progress;  // after each
  const std::atomic<bool>* stop = nullptr;  // set it to end with `cancelled`, behind a window, the state written
};

// The sums depend on model and windows alone. A text shorter than a window is an error, as are moments that do not fit
// the memory.
[[nodiscard]] Result<rt::Imatrix> collect_imatrix(const std::shared_ptr<const Model>& model, const Windows& windows,
                                                  const CollectOptions& options);

[[nodiscard]] const rt::ModelConfig& config_of(const Model& model);
// The identity of an open model.
[[nodiscard]] Result<std::string> identity_of(const Model& model);

// What rt::expert_coverage says of it.
[[nodiscard]] rt::ExpertCoverage expert_coverage_of(const Model& model, const rt::Imatrix& imatrix);

}  // namespace r1::eval
