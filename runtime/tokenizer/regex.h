// The regular expressions of tokenizer.json, written for Oniguruma, matched by PCRE2 to the same effect.
#pragma once

#include <r1/result.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;

namespace r1::rt {

struct Match {
  std::size_t begin, end;  // bytes of the text
};

// What one thread needs to match. Made once per text, used by every pattern.
class RegexScratch {
 public:
  RegexScratch();
  ~RegexScratch();
  RegexScratch(const RegexScratch&) = delete;
  RegexScratch& operator=(const RegexScratch&) = delete;

 private:
  friend class Regex;
  pcre2_real_match_data_8* data_;
  pcre2_real_match_context_8* context_;
};

// Immutable, thread-safe.
class Regex {
 public:
  static Result<Regex> compile(std::string_view pattern, const std::string& where);

  // All matches in `text` (well-formed UTF-8), from left to right, as Oniguruma's find_iter gives them: empty ones too,
  // but none where the last match ended. Time and memory are bounded: a pattern that backtracks without end is an
  // error.
  [[nodiscard]] Result<void> find_all(std::string_view text, RegexScratch& scratch, std::vector<Match>& matches) const;

 private:
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
  };
  std::unique_ptr<pcre2_real_code_8, Free> code_;
};

// The pattern that matches `text` itself.
[[nodiscard]] std::string quote_pattern(std::string_view text);

// An Oniguruma pattern in PCRE2's words; exposed for tests.
[[nodiscard]] Result<std::string> translate_pattern(std::string_view pattern, const std::string& where);

}  // namespace r1::rt
