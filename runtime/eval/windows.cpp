#include "runtime/eval/windows.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "runtime/base/try.h"
#include "runtime/io/file.h"

namespace r1::eval {

std::uint64_t Windows::fingerprint() const {
  const std::array<std::uint64_t, 4> parts = {rt::xxh3_64(std::as_bytes(std::span(tokens))), n_windows, window_tokens,
                                              first_scored};
  return rt::xxh3_64(std::as_bytes(std::span(parts)));
}

Result<Windows> make_windows(std::span<const Token> text_tokens, bool starts_with_bos, const WindowOptions& options,
                             const std::string& where) {
  if (options.window_tokens < min_window_tokens) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("a context of {} tokens: give at least {}", options.window_tokens, min_window_tokens), ""};
  }
  if (text_tokens.size() < min_window_tokens) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("{} tokens of text are too few: give at least {}", text_tokens.size(), min_window_tokens),
                 where};
  }
  Windows windows;
  windows.is_short = text_tokens.size() < options.window_tokens;
  windows.window_tokens = windows.is_short ? static_cast<std::uint32_t>(text_tokens.size()) : options.window_tokens;
  windows.first_scored = windows.window_tokens / 2 + 1;
  std::size_t n = text_tokens.size() / windows.window_tokens;
  windows.n_left_over = text_tokens.size() % windows.window_tokens;
  if (options.max_windows != 0) n = std::min<std::size_t>(n, options.max_windows);
  windows.n_windows = static_cast<std::uint32_t>(n);
  const auto used = text_tokens.first(n * windows.window_tokens);
  windows.tokens.assign(used.begin(), used.end());
  if (starts_with_bos) {
    for (std::size_t i = 0; i < n; ++i) windows.tokens[i * windows.window_tokens] = text_tokens.front();
  }
  return windows;
}

Result<Windows> make_windows(const Tokenizer& tokenizer, std::string_view text, const WindowOptions& options,
                             const std::string& where) {
  if (text.empty()) return Error{ErrorCode::invalid_argument, "the text is empty", where};
  auto encoded = tokenizer.encode(text, options.special);
  if (!encoded) {
    Error error = std::move(encoded).error();
    if (error.context.empty()) error.context = where;
    return error;
  }
  std::vector<Token> tokens = *std::move(encoded);
  const std::optional<Token> bos = tokenizer.bos();
  if (bos && tokens.front() != *bos) tokens.insert(tokens.begin(), *bos);
  return make_windows(tokens, bos.has_value(), options, where);
}

}  // namespace r1::eval
