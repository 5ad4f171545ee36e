#include "runtime/tokenizer/token_strings.h"

#include <functional>

namespace r1::rt {

void TokenStrings::set(Token id, std::string_view text) {
  const auto index = static_cast<std::size_t>(id);
  if (index >= spans_.size()) spans_.resize(index + 1);
  spans_[index] = {static_cast<std::uint32_t>(block_.size()), static_cast<std::uint32_t>(text.size())};
  block_ += text;
  ++n_set_;
}

bool TokenStrings::make_findable(Token id) {
  if (2 * (n_findable_ + 1) > slots_.size()) grow();
  Token& slot = slots_[slot_of(text_of(id))];
  if (slot >= 0) return false;
  slot = id;
  ++n_findable_;
  return true;
}

std::optional<std::string_view> TokenStrings::at(Token id) const {
  const auto index = static_cast<std::size_t>(id);
  if (id < 0 || index >= spans_.size() || spans_[index].length == absent) return std::nullopt;
  return text_of(id);
}

std::optional<Token> TokenStrings::find(std::string_view text) const {
  if (slots_.empty()) return std::nullopt;
  const Token id = slots_[slot_of(text)];
  return id < 0 ? std::nullopt : std::optional(id);
}

std::string_view TokenStrings::text_of(Token id) const {
  const Span& span = spans_[static_cast<std::size_t>(id)];
  return std::string_view(block_).substr(span.offset, span.length);
}

std::size_t TokenStrings::slot_of(std::string_view text) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t slot = std::hash<std::string_view>{}(text)&mask;
  while (slots_[slot] >= 0 && text_of(slots_[slot]) != text) slot = (slot + 1) & mask;
  return slot;
}

void TokenStrings::grow() {
  std::vector<Token> old(slots_.empty() ? 1024 : 2 * slots_.size(), -1);
  old.swap(slots_);
  for (const Token id : old) {
    if (id >= 0) slots_[slot_of(text_of(id))] = id;
  }
}

}  // namespace r1::rt
