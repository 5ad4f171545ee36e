// What a session owns.
#pragma once

#include <r1/session.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "numa/thread_team.h"
#include "runtime/kv_cache/kv_cache.h"
#include "runtime/model/forward.h"
#include "runtime/model/model_impl.h"
#include "runtime/model/scratch.h"

namespace r1 {

struct Session::Impl {
  Impl(std::shared_ptr<const Model> model, const SessionOptions& options, const rt::KvShape& kv_shape,
       std::uint32_t context_tokens);

  std::shared_ptr<const Model> model;
  SessionOptions options;
  std::uint32_t context_tokens = 0;
  numa::ThreadTeam team;
  std::unique_ptr<numa::ThreadTeam> prefill_team;  // where steps of several tokens want other threads
  rt::KvCache kv;
  rt::Scratch scratch;

  std::vector<Token> tokens;         // capacity context_tokens
  std::vector<rt::TokenSlot> slots;  // of the running batch; capacity batch_tokens
  std::uint32_t n_logit_rows = 0;    // of scratch.logits: predictions after the last so many tokens; 0: none
  std::atomic<bool> cancel = false;
  rt::Profile* profile = nullptr;           // r1-bench's, while it measures
  std::span<const rt::LayerCut> kept_cuts;  // as in rt::Pass, of this session's sequence
  const rt::LayerCut* start_cut = nullptr;

  // The prediction after tokens.back(), [vocab_size]; empty if there is none.
  [[nodiscard]] std::span<const float> last_logits() const;
  // Replaces it by one that came from elsewhere.
  void set_last_logits(std::span<const float> logits);

  // Makes room for n rows of logits: generating text needs one, the others come when somebody asks for them.
  void reserve_logits(std::uint32_t n_rows);
  // Runs the work of an append: what it throws and who cancels it become errors, and nothing is kept of older logits.
  template <class Work>
  Result<void> guarded(Work&& work) {
    n_logit_rows = 0;
    Result<void> result;
    try {
      result = work();
    } catch (const std::bad_alloc&) {
      result = Error{ErrorCode::out_of_memory, "no memory left while running the model", {}};
    }
    cancel.store(false, std::memory_order_relaxed);
    if (!result.ok() && result.error().context.empty()) result.error().context = model->info().path;
    return result;
  }
  // What append checks before any work.
  [[nodiscard]] Result<void> check_append(std::span<const Token> new_tokens) const;
  // Appends tokens that are known to fit, in batches, with the logits of the last n_logits of them, which are no more
  // than a batch holds.
  Result<void> append_batches(std::span<const Token> tokens, std::uint32_t n_logits);
  // One batch.
  Result<void> append_batch(std::span<const Token> batch, std::uint32_t n_logits);
};

}  // namespace r1

namespace r1::rt {

[[nodiscard]] simd::KvType kv_type_of(KvCacheType type);
// The ids must be the model's; the error names the first that is not.
[[nodiscard]] Result<void> check_tokens(std::span<const Token> tokens, std::uint32_t vocab_size);
[[nodiscard]] Result<void> check_n_threads(int n_threads);

}  // namespace r1::rt
