#include <r1/generate.h>

#include <utility>

#include "runtime/engine/stop_strings.h"

namespace r1 {
namespace {

constexpr std::string_view think_open = "<think>", think_close = "</think>";
constexpr std::string_view line_breaks = "\r\n", blanks = " \t\r\n";

}  // namespace

std::vector<ThoughtSplitter::Piece> ThoughtSplitter::push(std::string_view text) {
  pending_ += text;
  std::vector<Piece> pieces;
  advance(false, &pieces);
  return pieces;
}

std::vector<ThoughtSplitter::Piece> ThoughtSplitter::finish() {
  std::vector<Piece> pieces;
  advance(true, &pieces);
  return pieces;
}

void ThoughtSplitter::advance(bool at_end, std::vector<Piece>* pieces) {
  if (state_ == State::start) {
    const std::size_t first = pending_.find_first_not_of(blanks);
    const std::string_view rest = first == std::string::npos ? "" : std::string_view(pending_).substr(first);
    if (rest.starts_with(think_open)) {
      state_ = State::thought;
      pending_.erase(0, first + think_open.size());
    } else if (at_end || (!rest.empty() && !think_open.starts_with(rest))) {
      state_ = State::answer;
    } else {
      return;
    }
  }

  const auto emit = [&](bool is_thought, std::string text) {
    if (at_section_start_) text.erase(0, std::min(text.find_first_not_of(line_breaks), text.size()));
    if (text.empty()) return;
    at_section_start_ = false;
    pieces->push_back({is_thought, std::move(text)});
  };
  // The text up to `end`, without the line breaks that close a section.
  const auto trimmed = [&](std::size_t end) {
    while (end > 0 && line_breaks.find(pending_[end - 1]) != std::string_view::npos) --end;
    return end;
  };

  if (state_ == State::thought) {
    if (const std::size_t close = pending_.find(think_close); close != std::string::npos) {
      emit(true, pending_.substr(0, trimmed(close)));
      pending_.erase(0, close + think_close.size());
      state_ = State::answer;
      at_section_start_ = true;
    } else {
      const std::size_t end =
          trimmed(at_end ? pending_.size() : pending_.size() - rt::partial_match_bytes(pending_, think_close));
      emit(true, pending_.substr(0, end));
      pending_.erase(0, end);
      return;
    }
  }
  emit(false, std::exchange(pending_, {}));
}

}  // namespace r1
