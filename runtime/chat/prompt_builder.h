// A prompt under construction: special tokens by id, everything else as text that is never parsed for them. Text
// between two special tokens is tokenized as one, whoever wrote its parts, as the reference does.
#pragma once

#include <r1/chat.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace r1::rt {

class PromptBuilder {
 public:
  explicit PromptBuilder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // A special token by its name; plain text where the tokenizer does not have it.
  PromptBuilder& special(std::string_view name);
  PromptBuilder& text(std::string_view text);

  [[nodiscard]] Result<Prompt> finish() const;

 private:
  struct Piece {
    std::string text;
    std::optional<Token> token;
  };

  const Tokenizer& tokenizer_;
  std::vector<Piece> pieces_;
};

}  // namespace r1::rt
