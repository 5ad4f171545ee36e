// Checkpoint → model directory: bounded memory, parallel, resumable; the output depends on the source, the recipe,
// the effort and the importance matrix alone.
#pragma once

#include <r1/result.h>

#include <atomic>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "convert/checkpoint.h"
#include "convert/plan.h"
#include "quant/encode.h"
#include "runtime/model_file/imatrix.h"

namespace r1::convert {

struct Progress {
  std::uint64_t weights_done = 0, weights_total = 0;
  std::uint64_t source_bytes_done = 0, source_bytes_total = 0;  // of this run: kept shards are not counted
  std::uint64_t tensors_done = 0, tensors_total = 0;
  std::string shard;
};

struct ConvertOptions {
  int n_threads = 0;  // 0: all that the process may use
  std::uint64_t ram_bytes = std::uint64_t{8} << 30;
  std::function<void(const Progress&)> on_progress;  // one thread at a time, a few times a second
  const rt::Imatrix* imatrix = nullptr;              // what the search weighs columns with; null: all alike
  std::string imatrix_path;                          // names it in errors
  bool strict = false;                               // a tensor's error far above its format's ends the conversion
  const std::atomic<bool>* stop = nullptr;           // set it to end with `cancelled`, finished shards kept
};

// The error of one matrix: sqrt(Σ importance (x − decoded)² / Σ importance x²).
struct TensorError {
  std::string name;  // the checkpoint's; a blob's name and head for halves of kv_b_proj
  quant::Format format = quant::Format::f32;
  double error = 0;
  bool is_suspicious = false;  // more than twice what its format costs on Gaussian weights
};

struct ConvertReport {
  std::vector<TensorError> tensors;                          // of what this run encoded, in file order
  std::map<std::string, quant::EncodeError> error_by_class;  // of what this run encoded
  std::vector<std::string> unused_moments;  // inputs whose moments cannot be factored: importance alone was used
  int n_shards_written = 0, n_shards_kept = 0;
  std::uint64_t source_bytes = 0;  // read in this run
};

// Writes `directory` (made if absent). Shards already finished from the same source and with the same options are kept.
// Fails before it writes if the directory holds something else, the disk lacks room, or ram_bytes does not suffice for
// one thread.
[[nodiscard]] Result<ConvertReport> convert(const Checkpoint& checkpoint, const ConversionPlan& plan,
                                            const std::string& directory, const ConvertOptions& options);

// make_plan with the checkpoint's own types and fingerprint; checks the checkpoint first.
[[nodiscard]] Result<ConversionPlan> plan_conversion(const Checkpoint& checkpoint, const Mix& mix,
                                                     const rt::Imatrix* imatrix = nullptr,
                                                     quant::Effort effort = quant::Effort::normal);
[[nodiscard]] Result<ConversionPlan> plan_conversion(const Checkpoint& checkpoint, const quant::Recipe& recipe,
                                                     const rt::Imatrix* imatrix = nullptr,
                                                     quant::Effort effort = quant::Effort::normal);

// As eval::identity_of of a directory made from it.
[[nodiscard]] Result<std::string> identity_of(const Checkpoint& checkpoint);
// Tells which matrices the checkpoint has as BF16.
[[nodiscard]] IsBf16 stored_bf16(const Checkpoint& checkpoint);

}  // namespace r1::convert
