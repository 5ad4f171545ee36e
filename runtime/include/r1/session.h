// One sequence in progress: its KV cache, its scratch and its thread team. Move-only; one thread at a time,
// but cancel() from any.
#pragma once

#include <r1/model.h>
#include <r1/result.h>
#include <r1/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

namespace r1 {

// q8: eight bits a value, integer products; half the memory of f16.
enum class KvCacheType { f16, bf16, f32, q8 };

struct SessionOptions {
  std::uint32_t context_tokens = 0;  // 0: the model's maximum, but no more than memory allows; grown as needed
  // Tokens of a prefill step, 1 … 4096, or an error where their buffers do not fit the memory; unset: 4096, or fewer.
  std::optional<std::uint32_t> batch_tokens = {};
  int n_threads = 0;        // 0: one per physical core, within the CPU quota
  int prefill_threads = 0;  // of steps of several tokens; 0: n_threads
  KvCacheType kv_type = KvCacheType::f16;
};

class Session {
 public:
  static Result<Session> create(std::shared_ptr<const Model> model, const SessionOptions& options = {});
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;
  ~Session();

  // Runs the model over tokens, behind those it has. Afterwards logits() holds the prediction after the last one.
  // On an error (context_full, cancelled, numeric, …) the session holds the tokens whose batches were done.
  Result<void> append(std::span<const Token> tokens);
  // The same for 1 … batch_tokens tokens in one step, and gives the predictions after each of them: [tokens.size(),
  // vocab_size], valid until the session changes. logits() is the last row.
  [[nodiscard]] Result<std::span<const float>> append_for_logits(std::span<const Token> tokens);
  [[nodiscard]] std::span<const float> logits() const;  // [vocab_size]; empty before the first append
  [[nodiscard]] std::span<const Token> tokens() const;
  [[nodiscard]] std::uint32_t context_tokens() const;

  // Forgets all but the first n_tokens. logits() is empty until the next append.
  Result<void> rewind(std::uint32_t n_tokens);
  [[nodiscard]] Result<Session> fork() const;
  // KV snapshot, zstd, with the model's fingerprint: load refuses another model's.
  [[nodiscard]] Result<void> save(const std::string& path) const;
  [[nodiscard]] Result<void> load(const std::string& path);

  // The running append ends with `cancelled` at the next layer. Any thread; cleared when the append returns.
  void cancel();

  [[nodiscard]] const std::shared_ptr<const Model>& model() const;

  struct Impl;
  [[nodiscard]] Impl& impl() { return *impl_; }  // for the library itself
  [[nodiscard]] const Impl& impl() const { return *impl_; }

 private:
  explicit Session(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// One more token for each of several sessions of one model and KV type, in one pass: the weights are read once for all.
// Each gets the logits that its own append would have given. Runs on the first session's threads; there may be as many
// sessions as its batch_tokens. On an error no session has changed but for its logits, which are gone.
[[nodiscard]] Result<void> append_together(std::span<Session* const> sessions, std::span<const Token> tokens);

}  // namespace r1
