#include "runtime/eval/rows.h"

#include <algorithm>

#include "runtime/base/try.h"
#include "runtime/engine/session_impl.h"

namespace r1::eval {

Result<std::unique_ptr<ModelRows>> ModelRows::create(std::shared_ptr<const Model> model, const Windows& windows,
                                                     const RunOptions& options) {
  SessionOptions session_options;
  session_options.context_tokens = windows.longest();
  session_options.batch_tokens = std::min(max_batch_tokens, windows.longest());
  session_options.n_threads = options.n_threads;
  session_options.kv_type = options.kv_type;
  R1_TRY(Session session, Session::create(std::move(model), session_options));
  return std::unique_ptr<ModelRows>(new ModelRows(std::move(session), windows, options));
}

Result<Rows> ModelRows::rows(std::uint32_t window, std::uint32_t first, std::uint32_t n) {
  // The prediction of token t is made by token t − 1.
  const std::uint32_t begin = windows_.first_scored(window) - 1 + first;
  const std::span<const Token> tokens = windows_.window(window);
  Session::Impl& session = session_.impl();
  if (first == 0) {
    R1_CHECK(session_.rewind(0));
    if (kept_ != nullptr) cuts_ = kept_->cuts(window);
    start_cut_ = start_ != nullptr ? start_->before(start_layer_, window) : rt::LayerCut{};
    session.kept_cuts = cuts_;
    session.start_cut = start_cut_.residual != nullptr ? &start_cut_ : nullptr;
  }
  // The first rows go with the tokens before them.
  const std::span<const Token> next =
      tokens.subspan(session_.tokens().size()).first(begin + n - session_.tokens().size());
  R1_CHECK(session.check_append(next));
  R1_CHECK(session.guarded([&] {
    session.reserve_logits(n);
    return session.append_batches(next, n);
  }));
  const std::size_t vocab_size = session_.model()->info().vocab_size;
  const std::span<const float> logits(session.scratch.logits.data(), n * vocab_size);
  facts_.resize(n);
  team_.run([&](const numa::Member& member) {
    const auto [from, to] = member.share(n);
    for (std::uint32_t i = from; i < to; ++i) {
      facts_[i] = row_facts(logits.subspan(i * vocab_size, vocab_size), tokens[begin + 1 + i]);
    }
  });
  return Rows{logits, facts_};
}

}  // namespace r1::eval
