#include <fmt/format.h>
#include <r1/session.h>

#include "runtime/base/try.h"
#include "runtime/engine/session_impl.h"

namespace r1 {
namespace {

Result<void> check(std::span<Session* const> sessions, std::span<const Token> tokens) {
  const auto wrong = [](std::string message) {
    return Error{ErrorCode::invalid_argument, std::move(message), "append_together"};
  };
  if (sessions.size() != tokens.size()) {
    return wrong(fmt::format("{} tokens for {} sessions", tokens.size(), sessions.size()));
  }
  const Session::Impl& host = sessions.front()->impl();
  if (sessions.size() > *host.options.batch_tokens) {
    return wrong(fmt::format("{} sessions, but the first has room for {} (batch_tokens)", sessions.size(),
                             *host.options.batch_tokens));
  }
  for (std::size_t i = 0; i < sessions.size(); ++i) {
    const Session::Impl& s = sessions[i]->impl();
    if (s.model != host.model || s.kv.shape().type != host.kv.shape().type) {
      return wrong("the sessions differ in model or KV type");
    }
    if (s.context_tokens > host.context_tokens) return wrong("the first session has not the largest context");
    for (std::size_t j = 0; j < i; ++j) {
      if (sessions[j] == sessions[i]) return wrong("a session appears twice");
    }
    R1_CHECK(s.check_append(tokens.subspan(i, 1)));
  }
  return {};
}

}  // namespace

Result<void> append_together(std::span<Session* const> sessions, std::span<const Token> tokens) {
  if (sessions.empty()) return {};
  R1_CHECK(check(sessions, tokens));
  Session::Impl& host = sessions.front()->impl();
  const auto n = static_cast<std::uint32_t>(sessions.size());
  for (Session* session : sessions) session->impl().n_logit_rows = 0;
  const Result<void> done = host.guarded([&]() -> Result<void> {
    host.reserve_logits(n);
    host.slots.clear();
    for (std::uint32_t i = 0; i < n; ++i) {
      Session::Impl& s = sessions[i]->impl();
      const auto row = static_cast<std::uint32_t>(s.tokens.size());
      R1_CHECK(s.kv.grow(row + 1));
      host.scratch.grow_run_parts(row + 1);
      host.slots.push_back({tokens[i], row, row, &s.kv});
    }
    const Model::Impl& m = host.model->impl();
    rt::Pass pass{m.file->config(), m.rope, *m.kernels, m.weights, *m.experts, host.scratch};
    pass.slots = host.slots;
    pass.n_logit_tokens = n;
    pass.cancel = &host.cancel;
    return rt::run_forward(host.team, pass);
  });
  R1_CHECK(done);
  const std::size_t vocab_size = host.model->info().vocab_size;
  for (std::uint32_t i = 0; i < n; ++i) {
    Session::Impl& s = sessions[i]->impl();
    s.tokens.push_back(tokens[i]);
    if (i > 0) s.set_last_logits({host.scratch.logits.at(i * vocab_size), vocab_size});
  }
  host.n_logit_rows = 1;  // its row is the first already
  return {};
}

}  // namespace r1
