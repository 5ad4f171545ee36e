// Pre-tokenizers: rules that cut a text into the pieces BPE works on.
#pragma once

#include <r1/result.h>

#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/io/json.h"
#include "runtime/tokenizer/regex.h"

namespace r1::rt {

// A text in pieces, and what cutting it needs. One thread's.
struct Pieces {
  std::vector<std::string_view> views;  // into the text, or into `with_spaces`
  std::deque<std::string> with_spaces;  // pieces that a rule put a space before
  std::vector<std::string_view> previous;
  std::vector<Match> matches;
  RegexScratch regex;
};

class PreTokenizer {
 public:
  // `json`: tokenizer.json's pre_tokenizer. Types: Sequence, Split, Digits, ByteLevel (without which a vocabulary is
  // not one of bytes: an error).
  static Result<PreTokenizer> load(const Json* json, const std::string& where);

  // Cuts `text` (well-formed UTF-8) into pieces.views, in order; together they are the text, save for removed
  // separators and added spaces.
  [[nodiscard]] Result<void> split(std::string_view text, Pieces& pieces) const;

 private:
  enum class Behavior { isolated, removed, merged_with_previous, merged_with_next, contiguous };
  struct Rule {
    std::optional<Regex> regex;  // none: the piece stays whole
    Behavior behavior = Behavior::isolated;
    bool invert = false;            // what does not match is what separates
    bool add_prefix_space = false;  // before cutting, where there is none
  };
  Result<void> add(const Json& json, const std::string& where, int depth);
  static Result<void> apply(const Rule& rule, std::string_view piece, Pieces& pieces);

  std::vector<Rule> rules_;
  bool byte_level_ = false;
};

}  // namespace r1::rt
