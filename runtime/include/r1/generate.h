// The generation loop: prompt in, text out, with stop tokens, stop strings and numbers.
#pragma once

#include <r1/result.h>
#include <r1/sampler.h>
#include <r1/session.h>
#include <r1/types.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace r1 {

enum class StopReason { end_token, stop_string, max_tokens, context_full, cancelled };
[[nodiscard]] const char* stop_reason_name(StopReason reason);

struct GenerateOptions {
  std::uint32_t max_tokens = 0;  // 0: until the context is full
  std::vector<std::string> stop_strings;
  std::vector<Token> end_tokens;  // besides the model's own: what ends a turn in its template
  bool ignore_end_tokens = false;
  bool show_special = false;
};

struct GenerateStats {
  StopReason reason = StopReason::end_token;
  std::uint32_t n_prompt_tokens = 0, n_generated_tokens = 0;
  std::uint32_t n_decode_steps = 0;  // forward passes of one token that decode_ns covers
  std::uint64_t prefill_ns = 0, decode_ns = 0;
  std::vector<Token> tokens;  // generated, without the end token

  [[nodiscard]] double prefill_tokens_per_s() const;  // 0 where nothing was measured
  [[nodiscard]] double decode_tokens_per_s() const;
};

// Called once per token, and once more if text is left at the end, with text that may be shown: whole characters,
// possibly none, nothing that may still become a stop string. False ends the generation with `cancelled`.
using OnText = std::function<bool(std::string_view text, Token token)>;

// Appends prompt, then samples until something stops it. Running into the end of the context is a reason, not an error;
// a prompt that does not fit is an error, before any work. The last token may not have been appended to the session.
[[nodiscard]] Result<GenerateStats> generate(Session& session, Sampler& sampler, std::span<const Token> prompt,
                                             const GenerateOptions& options, const OnText& on_text);

// Tells a reasoning model's thoughts from its answer, in text as it streams: <think> opens a thought only at the very
// start, the first </think> ends it. The line breaks around the tags belong to neither.
class ThoughtSplitter {
 public:
  struct Piece {
    bool is_thought = false;
    std::string text;  // not empty
  };

  explicit ThoughtSplitter(bool starts_in_thinking) : state_(starts_in_thinking ? State::thought : State::start) {}
  [[nodiscard]] std::vector<Piece> push(std::string_view text);
  [[nodiscard]] std::vector<Piece> finish();  // what is still held back
  [[nodiscard]] bool in_thought() const { return state_ == State::thought; }

 private:
  enum class State { start, thought, answer };
  void advance(bool at_end, std::vector<Piece>* pieces);
  State state_;
  bool at_section_start_ = true;
  std::string pending_;
};

}  // namespace r1
