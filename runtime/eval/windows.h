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
  bool documents = false;  // see Windows; for texts that hold BOS, read with SpecialTokens::parsed
};

// The token sequence (BOS first, where the tokenizer knows one) cut into windows that do not overlap, of window_tokens
// each. The first token of each is BOS, in place of the text's, where there is BOS.
// As documents: what is between one BOS and the next is a window, window_tokens at most; what is shorter than
// min_window_tokens is left over.
// The first half of a window is context only; scored are the tokens from first_scored(i) to its end, each predicted
// from all before it.
struct Windows {
  std::vector<Token> tokens;                // of all windows, one behind the other
  std::vector<std::uint64_t> begins = {0};  // [n_windows + 1] of each window in tokens
  std::vector<std::uint64_t> rows = {0};    // [n_windows + 1] scored tokens before each window
  std::uint64_t n_left_over = 0;            // tokens of the text that are in no window
  bool is_short = false;  // the text has fewer tokens than a window was to have: it is one shorter window

  void add(std::span<const Token> window);
  void keep_first(std::uint32_t n_windows);

  [[nodiscard]] std::uint32_t n_windows() const { return static_cast<std::uint32_t>(begins.size() - 1); }
  [[nodiscard]] std::uint32_t longest() const;
  [[nodiscard]] std::uint64_t n_scored_tokens() const { return rows.back(); }
  [[nodiscard]] std::span<const Token> window(std::uint32_t i) const {
    return std::span(tokens).subspan(begins[i], begins[i + 1] - begins[i]);
  }
  [[nodiscard]] std::uint32_t first_scored(std::uint32_t i) const {
    return static_cast<std::uint32_t>((begins[i + 1] - begins[i]) / 2 + 1);
  }
  [[nodiscard]] std::uint32_t n_scored(std::uint32_t i) const {
    return static_cast<std::uint32_t>(rows[i + 1] - rows[i]);
  }
  // The tokens to be predicted, [n_scored(i)].
  [[nodiscard]] std::span<const Token> targets(std::uint32_t i) const { return window(i).subspan(first_scored(i)); }
  [[nodiscard]] std::uint64_t fingerprint() const;  // of tokens and cut
};

// `where` names the text in errors. A text of fewer than min_window_tokens tokens is an error.
[[nodiscard]] Result<Windows> make_windows(const Tokenizer& tokenizer, std::string_view text,
                                           const WindowOptions& options, const std::string& where);
// The same for ids; those that came from elsewhere.
[[nodiscard]] Result<Windows> make_windows(std::span<const Token> text_tokens, bool starts_with_bos,
                                           const WindowOptions& options, const std::string& where);

}  // namespace r1::eval
