// What a session owns.
#pragma once

#include <r1/session.h>

#include <atomic>
#include <cstdint>
#include <memory>
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
  bool has_logits = false;           // scratch.logits is the prediction after tokens.back()
  std::atomic<bool> cancel = false;

  // Appends one batch that is known to fit.
  Result<void> append_batch(std::span<const Token> batch, bool want_logits);
};

}  // namespace r1

namespace r1::rt {

[[nodiscard]] simd::KvType kv_type_of(KvCacheType type);
// The ids must be the model's; the error names the first that is not.
[[nodiscard]] Result<void> check_tokens(std::span<const Token> tokens, std::uint32_t vocab_size);
[[nodiscard]] Result<void> check_n_threads(int n_threads);

}  // namespace r1::rt
