#include "runtime/eval/windows.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "runtime/base/try.h"
#include "runtime/io/file.h"

namespace r1::eval {

namespace {

// Windows of documents: from each BOS to the next.
void cut_documents(std::span<const Token> text_tokens, const WindowOptions& options, Windows& windows) {
  const Token bos = text_tokens.front();
  for (std::size_t begin = 0; begin < text_tokens.size();) {
    const auto next = std::find(text_tokens.begin() + static_cast<std::ptrdiff_t>(begin) + 1, text_tokens.end(), bos);
    const auto end = static_cast<std::size_t>(next - text_tokens.begin());
    const std::size_t n = std::min<std::size_t>(end - begin, options.window_tokens);
    if (n >= min_window_tokens) windows.add(text_tokens.subspan(begin, n));
    begin = end;
  }
}

void cut_evenly(std::span<const Token> text_tokens, bool starts_with_bos, const WindowOptions& options,
                Windows& windows) {
  windows.is_short = text_tokens.size() < options.window_tokens;
  const std::size_t n = windows.is_short ? text_tokens.size() : options.window_tokens;
  for (std::size_t begin = 0; begin + n <= text_tokens.size(); begin += n) {
    windows.add(text_tokens.subspan(begin, n));
    if (starts_with_bos) windows.tokens[begin] = text_tokens.front();
  }
}

}  // namespace

void Windows::add(std::span<const Token> window) {
  tokens.insert(tokens.end(), window.begin(), window.end());
  begins.push_back(tokens.size());
  rows.push_back(rows.back() + window.size() - (window.size() / 2 + 1));
}

void Windows::keep_first(std::uint32_t n) {
  if (n >= n_windows()) return;
  begins.resize(std::size_t{n} + 1);
  rows.resize(std::size_t{n} + 1);
  tokens.resize(begins.back());
}

std::uint32_t Windows::longest() const {
  std::uint64_t most = 0;
  for (std::size_t i = 0; i + 1 < begins.size(); ++i) most = std::max(most, begins[i + 1] - begins[i]);
  return static_cast<std::uint32_t>(most);
}

std::uint64_t Windows::fingerprint() const {
  const std::array<std::uint64_t, 2> parts = {rt::xxh3_64(std::as_bytes(std::span(tokens))),
                                              rt::xxh3_64(std::as_bytes(std::span(begins)))};
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
  if (options.documents && !starts_with_bos) {
    return Error{ErrorCode::invalid_argument, "documents begin with BOS, but this tokenizer knows none", where};
  }
  Windows windows;
  if (options.documents) {
    cut_documents(text_tokens, options, windows);
  } else {
    cut_evenly(text_tokens, starts_with_bos, options, windows);
  }
  if (windows.n_windows() == 0) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("no document has the {} tokens that one needs", min_window_tokens), where};
  }
  windows.n_left_over = text_tokens.size() - windows.tokens.size();
  if (options.max_windows != 0) windows.keep_first(options.max_windows);
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
