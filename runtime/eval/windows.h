// A text as windows of tokens, cut and scored as llama.cpp's perplexity does, so that figures can be compared.
#pragma once

#include <r1/result.h>
#include <r1/tokenizer.h>
#include <r1/types.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace r1::eval {

inline constexpr std::uint32_t default_window_tokens = 512, min_window_tokens = 8;

struct WindowOptions {
  std::uint32_t window_tokens = default_window_tokens;
  std::uint32_t max_windows = 0;  // 0: all
  SpecialTokens special = SpecialTokens::literal;
};

// The token sequence (BOS first, where the tokenizer knows one) cut into windows that do not overlap. The first token
// of each is BOS, in place of the text's, where there is BOS. The first half of a window is context only; scored are
// the tokens from first_scored to its end, each predicted from all before it.
struct Windows {
  std::vector<Token> tokens;  // [n_windows, window_tokens]
  std::uint32_t n_windows = 0, window_tokens = 0, first_scored = 0;
  std::uint64_t n_left_over = 0;  // tokens at the end that fill no window
  bool is_short = false;          // the text has fewer tokens than a window was to have: it is one shorter window

  [[nodiscard]] std::uint32_t n_scored() const { return window_tokens - first_scored; }  // of each window
  [[nodiscard]] std::span<const Token> window(std::uint32_t i) const {
    return std::span(tokens).subspan(std::size_t{i} * window_tokens, window_tokens);
  }
  // The tokens to be predicted, [n_scored].
  [[nodiscard]] std::span<const Token> targets(std::uint32_t i) const { return window(i).subspan(first_scored); }
  [[nodiscard]] std::uint64_t fingerprint() const;  // of tokens and cut
};

// `where` names the text in errors. A text of fewer than min_window_tokens tokens is an error.
[[nodiscard]] Result<Windows> make_windows(const Tokenizer& tokenizer, std::string_view text,
                                           const WindowOptions& options, const std::string& where);
// The same for ids; those that came from elsewhere.
[[nodiscard]] Result<Windows> make_windows(std::span<const Token> text_tokens, bool starts_with_bos,
                                           const WindowOptions& options, const std::string& where);

}  // namespace r1::eval
