// Predictions of scored tokens, from a model that runs or from a file of a base's logits.
#pragma once

#include <r1/result.h>
#include <r1/session.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "numa/thread_team.h"
#include "runtime/eval/layer_states.h"
#include "runtime/eval/log_softmax.h"
#include "runtime/eval/windows.h"

namespace r1::eval {

// Rows handled at a time, and tokens of a batch: what the memory of a run is planned for. A batch reads every expert
// that one of its tokens chose, so that large ones read a model's weights fewer times.
inline constexpr std::uint32_t max_rows = 256, max_batch_tokens = 512;

struct Rows {
  std::span<const float> logits;    // [n, vocab_size], up to a constant per row
  std::span<const RowFacts> facts;  // [n]
  [[nodiscard]] std::span<const float> row(std::size_t i) const {
    const std::size_t vocab_size = logits.size() / facts.size();
    return logits.subspan(i * vocab_size, vocab_size);
  }
};

class RowSource {
 public:
  virtual ~RowSource() = default;
  // Predictions of the window's scored tokens first … first + n − 1, n ≤ max_rows, valid until the next call. A
  // window's rows are asked for in order, from the first.
  virtual Result<Rows> rows(std::uint32_t window, std::uint32_t first, std::uint32_t n) = 0;
};

// What runs a model over windows.
struct RunOptions {
  int n_threads = 0;  // 0: one per physical core
  KvCacheType kv_type = KvCacheType::f16;
};

// A model's own predictions. `windows` must outlive it.
class ModelRows final : public RowSource {
 public:
  static Result<std::unique_ptr<ModelRows>> create(std::shared_ptr<const Model> model, const Windows& windows,
                                                   const RunOptions& options);
  Result<Rows> rows(std::uint32_t window, std::uint32_t first, std::uint32_t n) override;
  // Windows asked for from now on leave what layers find there.
  void keep_states(LayerStates& states) { kept_ = &states; }
  // They begin at `layer`, or before it, with what was kept of a model that is the same so far.
  void start_at(std::uint32_t layer, LayerStates& states) {
    start_layer_ = layer;
    start_ = &states;
  }
  void cancel() { session_.cancel(); }  // from any thread

 private:
  ModelRows(Session session, const Windows& windows, const RunOptions& options)
      : session_(std::move(session)), windows_(windows), team_({.n_threads = options.n_threads, .pin = true}) {}
  Session session_;
  const Windows& windows_;
  numa::ThreadTeam team_;
  std::vector<RowFacts> facts_;
  LayerStates* kept_ = nullptr;
  LayerStates* start_ = nullptr;
  std::uint32_t start_layer_ = 0;
  std::vector<rt::LayerCut> cuts_;  // of the window at hand
  rt::LayerCut start_cut_;
};

}  // namespace r1::eval
