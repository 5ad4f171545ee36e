#include <r1/session.h>

#include <fmt/format.h>

#include <algorithm>
#include <new>

#include "numa/topology.h"
#include "runtime/base/try.h"
#include "runtime/engine/session_impl.h"
#include "runtime/engine/snapshot.h"

namespace r1 {

namespace rt {

simd::KvType kv_type_of(KvCacheType type) {
  switch (type) {
    case KvCacheType::bf16:
      return simd::KvType::bf16;
    case KvCacheType::f32:
      return simd::KvType::f32;
    case KvCacheType::q8:
      return simd::KvType::q8;
    case KvCacheType::f16:
      break;
  }
  return simd::KvType::f16;
}

Result<void> check_tokens(std::span<const Token> tokens, std::uint32_t vocab_size) {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= 0 && static_cast<std::uint32_t>(tokens[i]) < vocab_size) continue;
    return Error{ErrorCode::invalid_argument,
                 fmt::format("token {} at place {} is none of the model's {} (0 … {})", tokens[i], i, vocab_size,
                             vocab_size - 1),
                 {}};
  }
  return {};
}

Result<void> check_n_threads(int n_threads) {
  constexpr int max_threads = 1024;
  if (n_threads >= 0 && n_threads <= max_threads) return {};
  return Error{ErrorCode::invalid_argument,
               fmt::format("{} threads: give 1 … {}, or 0 for one per core", n_threads, max_threads), "threads"};
}

}  // namespace rt

namespace {

constexpr std::uint32_t max_batch_tokens = 4096;

Result<void> check_options(const SessionOptions& options) {
  R1_CHECK(rt::check_n_threads(options.n_threads));
  R1_CHECK(rt::check_n_threads(options.prefill_threads));
  if (options.batch_tokens && (*options.batch_tokens < 1 || *options.batch_tokens > max_batch_tokens)) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("{} tokens a batch: give 1 … {}", *options.batch_tokens, max_batch_tokens),
                 "batch_tokens"};
  }
  return {};
}

}  // namespace

Session::Impl::Impl(std::shared_ptr<const Model> model_opened, const SessionOptions& session_options,
                    const rt::KvShape& kv_shape, std::uint32_t context)
    : model(std::move(model_opened)),
      options(session_options),
      context_tokens(context),
      team({.n_threads = session_options.n_threads, .pin = true}),
      prefill_team(session_options.prefill_threads == 0 || session_options.prefill_threads == team.size()
                       ? nullptr
                       : std::make_unique<numa::ThreadTeam>(
                             numa::TeamOptions{.n_threads = session_options.prefill_threads, .pin = true})),
      kv(kv_shape, context),
      scratch(model->impl().file->config(), *session_options.batch_tokens, 1, context,
              prefill_team == nullptr ? team.size() : std::max(team.size(), prefill_team->size())) {
  tokens.reserve(context);
  slots.reserve(*session_options.batch_tokens);
}

std::span<const float> Session::Impl::last_logits() const {
  if (n_logit_rows == 0) return {};
  const std::size_t vocab_size = model->info().vocab_size;
  return {scratch.logits.at((n_logit_rows - 1) * vocab_size), vocab_size};
}

void Session::Impl::set_last_logits(std::span<const float> logits) {
  std::copy(logits.begin(), logits.end(), scratch.logits.data());
  n_logit_rows = logits.empty() ? 0 : 1;
}

void Session::Impl::reserve_logits(std::uint32_t n_rows) {
  const std::size_t n_floats = std::size_t{n_rows} * model->info().vocab_size;
  if (scratch.logits.size() < n_floats) scratch.logits = rt::Buffer<float>(n_floats);
}

Result<void> Session::Impl::check_append(std::span<const Token> new_tokens) const {
  R1_CHECK(rt::check_tokens(new_tokens, model->info().vocab_size));
  if (new_tokens.size() <= context_tokens - tokens.size()) return {};
  return Error{ErrorCode::context_full,
               fmt::format("{} more tokens do not fit: the context of {} holds {}", new_tokens.size(), context_tokens,
                           tokens.size()),
               {}};
}

Result<void> Session::Impl::append_batches(std::span<const Token> some, std::uint32_t n_logits) {
  const std::size_t most = *options.batch_tokens;
  while (some.size() > most) {
    const std::size_t n = std::min(most, some.size() - n_logits);
    R1_CHECK(append_batch(some.first(n), 0));
    some = some.subspan(n);
  }
  return append_batch(some, n_logits);
}

Result<void> Session::Impl::append_batch(std::span<const Token> batch, std::uint32_t n_logits) {
  const auto first = static_cast<std::uint32_t>(tokens.size()), n = static_cast<std::uint32_t>(batch.size());
  R1_CHECK(kv.grow(first + n));
  scratch.grow_run_parts(first + n);
  slots.clear();
  for (std::uint32_t i = 0; i < n; ++i) slots.push_back({batch[i], first + i, first + i, &kv});

  const Model::Impl& m = model->impl();
  rt::Pass pass{m.file->config(), m.rope, *m.kernels, m.weights, *m.experts, scratch};
  pass.slots = slots;
  pass.n_logit_tokens = n_logits;
  pass.cancel = &cancel;
  pass.profile = profile;
  pass.kept_cuts = kept_cuts;
  pass.start = start_cut;
  R1_CHECK(rt::run_forward(n > 1 && prefill_team != nullptr ? *prefill_team : team, pass));
  tokens.insert(tokens.end(), batch.begin(), batch.end());
  n_logit_rows = n_logits;
  return {};
}

Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;
Session::~Session() = default;

Result<Session> Session::create(std::shared_ptr<const Model> model, const SessionOptions& options) {
  if (model == nullptr) return Error{ErrorCode::invalid_argument, "no model", "session"};
  R1_CHECK(check_options(options));
  const rt::ModelConfig& config = model->impl().file->config();
  const rt::KvShape shape = rt::kv_shape(config, rt::kv_type_of(options.kv_type), false);
  const numa::Topology topology = numa::read_topology();
  const std::uint64_t memory = topology.memory_available_bytes;
  R1_TRY(std::uint32_t context,
         rt::plan_context(shape, options.context_tokens, config.max_position_embeddings, memory));
  // A context that was asked for comes first, then the batch; else the context gets what the batch leaves.
  const std::uint64_t kv_tokens = options.context_tokens > 0 ? context : rt::kv_page_tokens;
  const std::uint64_t kv_bytes = std::min(memory, kv_tokens * shape.bytes_per_token());
  const int n_threads =
      std::max(options.n_threads == 0 ? topology.n_cores : options.n_threads, options.prefill_threads);
  const bool reads_bf16 = model->impl().kernels->reads_bf16();
  SessionOptions planned = options;
  R1_TRY(planned.batch_tokens,
         rt::plan_batch(config, options.batch_tokens, context, n_threads, reads_bf16, memory - kv_bytes));
  if (options.context_tokens == 0) {
    const std::uint64_t rest = memory - rt::batch_bytes(config, *planned.batch_tokens, n_threads, reads_bf16);
    R1_TRY(context, rt::plan_context(shape, 0, config.max_position_embeddings, rest));
  }
  try {
    return Session(std::make_unique<Impl>(std::move(model), planned, shape, context));
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory,
                 fmt::format("no memory for the buffers of batches of {} tokens: ask for smaller batches",
                             *planned.batch_tokens),
                 "session"};
  } catch (const std::exception& e) {  // the operating system refuses threads
    return Error{ErrorCode::io, e.what(), "session"};
  }
}

Result<void> Session::append(std::span<const Token> tokens) {
  Impl& s = *impl_;
  if (tokens.empty()) return {};
  R1_CHECK(s.check_append(tokens));
  return s.guarded([&] { return s.append_batches(tokens, 1); });
}

Result<std::span<const float>> Session::append_for_logits(std::span<const Token> tokens) {
  Impl& s = *impl_;
  if (tokens.empty() || tokens.size() > *s.options.batch_tokens) {
    return Error{
        ErrorCode::invalid_argument,
        fmt::format("{} tokens in one step: give 1 … {} (batch_tokens)", tokens.size(), *s.options.batch_tokens),
        "session"};
  }
  R1_CHECK(s.check_append(tokens));
  R1_CHECK(s.guarded([&]() -> Result<void> {
    s.reserve_logits(*s.options.batch_tokens);
    return s.append_batch(tokens, static_cast<std::uint32_t>(tokens.size()));
  }));
  return std::span<const float>(s.scratch.logits.data(), tokens.size() * s.model->info().vocab_size);
}

std::span<const float> Session::logits() const {
  return impl_->last_logits();
}

std::span<const Token> Session::tokens() const {
  return impl_->tokens;
}
std::uint32_t Session::context_tokens() const {
  return impl_->context_tokens;
}
const std::shared_ptr<const Model>& Session::model() const {
  return impl_->model;
}
void Session::cancel() {
  impl_->cancel.store(true, std::memory_order_relaxed);
}

Result<void> Session::rewind(std::uint32_t n_tokens) {
  Impl& s = *impl_;
  if (n_tokens > s.tokens.size()) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("cannot rewind to {} tokens: the session has {}", n_tokens, s.tokens.size()), "rewind"};
  }
  s.tokens.resize(n_tokens);
  s.kv.shrink(n_tokens);
  s.n_logit_rows = 0;
  return {};
}

Result<Session> Session::fork() const {
  const Impl& s = *impl_;
  SessionOptions options = s.options;
  options.context_tokens = s.context_tokens;
  R1_TRY(Session twin, create(s.model, options));
  R1_TRY(twin.impl_->kv, s.kv.copy(static_cast<std::uint32_t>(s.tokens.size())));
  twin.impl_->tokens.assign(s.tokens.begin(), s.tokens.end());
  twin.impl_->set_last_logits(s.last_logits());
  return twin;
}

Result<void> Session::save(const std::string& path) const {
  try {
    return rt::save_snapshot(*impl_, path);
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory, "no memory to save the session", path};
  }
}

Result<void> Session::load(const std::string& path) {
  try {
    return rt::load_snapshot(*impl_, path);
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory, "no memory to load the session", path};
  }
}

}  // namespace r1
