// How fast a model runs here: decode at several depths of context, prefill of several lengths.
#pragma once

#include <r1/model.h>
#include <r1/result.h>
#include <r1/session.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/bench/read_bandwidth.h"
#include "runtime/bench/spread.h"

namespace r1::bench {

struct ModelBenchOptions {
  std::vector<std::uint32_t> prompt_tokens;  // lengths of the prompts to measure; may be empty
  std::vector<std::uint32_t> depth_tokens;   // what the cache holds already when decoding begins; may be empty
  std::uint32_t generate_tokens = 64;        // per repetition and depth
  std::vector<int> n_threads;                // 0: one per physical core
  std::uint32_t n_repeats = 5;
  std::uint32_t batch_tokens = 0;  // of prefill; 0: the session's default
  KvCacheType kv_type = KvCacheType::f16;
  bool profile = false;
  std::function<void(const std::string& what)> on_step;  // before each measurement
};

// Share of a pass's time, mean over the team. They add up to 1.
struct PhaseShare {
  std::string name;
  double share = 0;
};

struct ModelBenchResult {
  std::string phase;  // "decode", "prefill"
  std::uint32_t prompt_tokens = 0, depth_tokens = 0;
  int n_threads = 0;
  Spread tokens_per_s;
  // Decode: the weights that a token reads, and the cache rows behind it. Prefill: the weights once per batch, with as
  // many experts as evenly routed tokens would meet, and no cache rows.
  double bytes_per_token = 0;
  double bytes_per_s = 0;
  double read_bytes_per_s = 0;     // what plain reads reached in between, with the same threads
  double fraction = 0;             // bytes_per_s / read_bytes_per_s, the median over repetitions
  double multiply_adds_per_s = 0;  // of matrices and attention; prefill's as if it decompressed K and V
  // Prefill: what integer dot products reach on registers, and multiply_adds_per_s as a fraction of it; else 0.
  double int8_peak_per_s = 0, peak_fraction = 0;
  std::vector<PhaseShare> profile;  // empty if it was not asked for
};

// Errors: a depth or prompt beyond the model's context or the memory, named with the numbers; what a session reports.
[[nodiscard]] Result<std::vector<ModelBenchResult>> bench_model(const std::shared_ptr<const Model>& model,
                                                                const ModelBenchOptions& options, ReadBandwidth& reads);

}  // namespace r1::bench
