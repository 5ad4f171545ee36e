// The generation loop: prompt in, text out, with stop tokens, stop strings and numbers.
#pragma once

#include <r1/result.h>
#include <r1/sampler.h>
#include <r1/session.h>

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
  bool ignore_end_tokens = false;
  bool show_special = false;
};

struct GenerateStats {
  StopReason reason = StopReason::end_token;
  std::uint32_t n_prompt_tokens = 0, n_generated_tokens = 0;
  std::uint64_t prefill_ns = 0, decode_ns = 0;
  std::vector<Token> tokens;  // generated, without the end token
};

// Called with text that may be shown (whole characters, stop strings withheld) and the token it came with; false ends the
// generation with `cancelled`.
using OnText = std::function<bool(std::string_view text, Token token)>;

// Appends prompt, then samples until something stops it. A full context is a reason, not an error.
[[nodiscard]] Result<GenerateStats> generate(Session& session, Sampler& sampler, std::span<const Token> prompt,
                                             const GenerateOptions& options, const OnText& on_text);

}  // namespace r1
