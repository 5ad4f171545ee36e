// Pre-tokenizers: rules that cut a text into the pieces BPE works on.
#pragma once

#include <r1/result.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/io/json.h"

namespace r1::rt {

class SplitRule;

class PreTokenizer {
 public:
  // `json`: tokenizer.json's pre_tokenizer (null: none). Types: Sequence, Split, Digits, ByteLevel.
  static Result<PreTokenizer> load(const Json* json, const std::string& where);
  PreTokenizer();
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;

  // Pieces of `text` (well-formed UTF-8) in order; together they are the text, save for removed separators and added
  // spaces.
  [[nodiscard]] Result<std::vector<std::string>> split(std::string_view text) const;

 private:
  Result<void> add(const Json& json, const std::string& where, int depth);
  std::vector<std::unique_ptr<SplitRule>> rules_;
};

}  // namespace r1::rt
