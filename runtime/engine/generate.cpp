#include <r1/generate.h>

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "runtime/base/try.h"
#include "runtime/engine/stop_strings.h"

namespace r1 {
namespace {

using Clock = std::chrono::steady_clock;

std::uint64_t ns_since(Clock::time_point start) {
  return static_cast<std::uint64_t>(std::chrono::nanoseconds(Clock::now() - start).count());
}

double per_second(std::uint32_t count, std::uint64_t ns) {
  return count == 0 || ns == 0 ? 0.0 : 1e9 * count / static_cast<double>(ns);
}

// Checks what can be checked before any work is done.
Result<void> check(const Session& session, std::span<const Token> prompt, const GenerateOptions& options) {
  for (const std::string& s : options.stop_strings) {
    if (s.empty()) return Error{ErrorCode::invalid_argument, "a stop string is empty", ""};
    if ((static_cast<unsigned char>(s[0]) & 0xc0) == 0x80) {
      return Error{ErrorCode::invalid_argument, "a stop string starts in the middle of a character", ""};
    }
  }
  if (prompt.empty() && session.logits().empty()) {
    return Error{ErrorCode::invalid_argument, "the prompt is empty: there is nothing to continue", ""};
  }
  const std::size_t n_before = session.tokens().size(), n_context = session.context_tokens();
  if (n_before + prompt.size() > n_context) {
    return Error{ErrorCode::context_full,
                 fmt::format("the prompt has {} tokens, but the context holds {}", n_before + prompt.size(), n_context),
                 ""};
  }
  return {};
}

}  // namespace

const char* stop_reason_name(StopReason reason) {
  switch (reason) {
    case StopReason::end_token:
      return "end_token";
    case StopReason::stop_string:
      return "stop_string";
    case StopReason::max_tokens:
      return "max_tokens";
    case StopReason::context_full:
      return "context_full";
    case StopReason::cancelled:
      return "cancelled";
  }
  return "unknown";
}

double GenerateStats::prefill_tokens_per_s() const {
  return per_second(n_prompt_tokens, prefill_ns);
}
double GenerateStats::decode_tokens_per_s() const {
  return per_second(n_decode_steps, decode_ns);
}

Result<GenerateStats> generate(Session& session, Sampler& sampler, std::span<const Token> prompt,
                               const GenerateOptions& options, const OnText& on_text) {
  R1_CHECK(check(session, prompt, options));
  R1_TRY(const std::shared_ptr<const Tokenizer> tokenizer, session.model()->tokenizer());
  const std::vector<Token>& model_ends = session.model()->end_tokens();
  const auto ends_turn = [&](Token token) {
    return !options.ignore_end_tokens &&
           (std::find(model_ends.begin(), model_ends.end(), token) != model_ends.end() ||
            std::find(options.end_tokens.begin(), options.end_tokens.end(), token) != options.end_tokens.end());
  };

  GenerateStats stats;
  sampler.see_prompt(session.tokens());
  sampler.see_prompt(prompt);
  const std::size_t n_before = session.tokens().size();
  const auto prefill_start = Clock::now();
  if (!prompt.empty()) {
    const Result<void> appended = session.append(prompt);
    stats.prefill_ns = ns_since(prefill_start);
    stats.n_prompt_tokens = static_cast<std::uint32_t>(session.tokens().size() - n_before);
    if (!appended && appended.error().code == ErrorCode::cancelled) {
      stats.reason = StopReason::cancelled;
      return stats;
    }
    if (!appended) return appended.error();
  }

  StreamDecoder decoder(tokenizer, options.show_special);
  rt::StopStrings stop_strings(options.stop_strings);
  Token token = -1;
  bool heard_out = true;  // on_text has not asked to stop
  const auto decode_start = Clock::now();
  for (bool goes_on = true; goes_on;) {
    R1_TRY(token, sampler.sample(session.logits()));
    if (ends_turn(token)) {
      stats.reason = StopReason::end_token;
      break;
    }
    stats.tokens.push_back(token);
    ++stats.n_generated_tokens;
    const std::string text = stop_strings.push(decoder.push(token));
    goes_on = false;
    heard_out = !on_text || on_text(text, token);
    if (!heard_out) {
      stats.reason = StopReason::cancelled;
    } else if (stop_strings.found()) {
      stats.reason = StopReason::stop_string;
    } else if (options.max_tokens != 0 && stats.n_generated_tokens >= options.max_tokens) {
      stats.reason = StopReason::max_tokens;
    } else if (session.tokens().size() >= session.context_tokens()) {
      stats.reason = StopReason::context_full;
    } else if (const Result<void> appended = session.append({&token, 1}); appended) {
      ++stats.n_decode_steps;
      goes_on = true;
    } else if (appended.error().code == ErrorCode::cancelled) {
      stats.reason = StopReason::cancelled;
    } else if (appended.error().code == ErrorCode::context_full) {
      stats.reason = StopReason::context_full;
    } else {
      return appended.error();
    }
  }
  stats.decode_ns = ns_since(decode_start);

  if (!heard_out) return stats;
  std::string rest = stop_strings.push(decoder.finish());
  if (stop_strings.found()) stats.reason = StopReason::stop_string;
  rest += stop_strings.finish();
  if (on_text && !rest.empty() && !on_text(rest, token)) stats.reason = StopReason::cancelled;
  return stats;
}

}  // namespace r1
