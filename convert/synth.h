// A model directory of random weights with a real config's shapes: for benchmarks and planning, made at the pace of the
// disk.
#pragma once

#include <r1/result.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "convert/pipeline.h"
#include "convert/plan.h"
#include "convert/random_weights.h"
#include "runtime/model_file/config.h"

namespace r1::convert {

// Which slice of the config's model. MoE models: n_dense dense layers, then n_layers MoE layers; dense models:
// n_layers.
struct SynthShape {
  std::int64_t n_layers = 1;
  std::optional<std::int64_t> n_dense;    // first_k_dense_replace
  std::optional<std::int64_t> n_experts;  // n_routed_experts
};

struct SynthModel {
  std::string config_text;  // the source's with the counts changed, so that they agree; no MTP layer
  rt::ModelConfig config;
  SynthRouter router = SynthRouter::uniform;
  std::uint64_t seed = 0;
};

// From the text of a config.json; `where` names it. Refuses more layers than it has, and counts that it cannot have.
[[nodiscard]] Result<SynthModel> shape_synthetic(std::string_view config_text, const std::string& where,
                                                 const SynthShape& shape);

[[nodiscard]] Result<ConversionPlan> plan_synthetic(const SynthModel& model, const Mix& mix);

struct SynthOptions {
  int n_threads = 0;                                 // 0: all that the process may use
  std::function<void(const Progress&)> on_progress;  // one thread at a time, a few times a second
  const std::atomic<bool>* stop = nullptr;           // set it to end with `cancelled`, finished shards kept
};

// Writes `directory` (made if absent); finished shards of the same model are kept. The bytes depend on model and plan
// alone. Fails before it writes if the directory holds anything that is not synthetic, or the disk lacks room. Returns
// the bytes written.
[[nodiscard]] Result<std::uint64_t> write_synthetic(const SynthModel& model, const ConversionPlan& plan,
                                                    const std::string& directory, const SynthOptions& options);

}  // namespace r1::convert
