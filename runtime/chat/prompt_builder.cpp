#include "runtime/chat/prompt_builder.h"

#include "runtime/base/try.h"

namespace r1::rt {

PromptBuilder& PromptBuilder::special(std::string_view name) {
  if (const auto id = tokenizer_.find(name)) {
    pieces_.push_back({std::string(name), *id});
    return *this;
  }
  return text(name);
}

PromptBuilder& PromptBuilder::text(std::string_view text) {
  if (pieces_.empty() || pieces_.back().token) pieces_.push_back({});
  pieces_.back().text += text;
  return *this;
}

Result<Prompt> PromptBuilder::finish() const {
  Prompt prompt;
  for (const Piece& piece : pieces_) {
    prompt.text += piece.text;
    if (piece.token) {
      prompt.ids.push_back(*piece.token);
      continue;
    }
    R1_TRY(const std::vector<Token> ids, tokenizer_.encode(piece.text, SpecialTokens::literal));
    prompt.ids.insert(prompt.ids.end(), ids.begin(), ids.end());
  }
  return prompt;
}

}  // namespace r1::rt
