#include "runtime/cli/answer.h"

#include <fmt/format.h>

namespace r1::cli {
namespace {

constexpr std::string_view dim = "\033[2m", plain = "\033[0m", erase_line = "\r\033[K";
constexpr std::uint32_t pieces_per_update = 16;  // of the folded counter

}  // namespace

bool AnswerPrinter::push(std::string_view text) {
  if (split_ == SplitThoughts::yes) {
    print(splitter_.push(text));
  } else if (!text.empty()) {
    print({{false, std::string(text)}});
  }
  return silent_ || terminal_.flush();
}

void AnswerPrinter::finish() {
  const bool in_thought = splitter_.in_thought();
  print(splitter_.finish());
  if (silent_) return;
  if (thought_open_) close_thought(!in_thought);
  if (!answer_.empty() && answer_.back() != '\n') terminal_.write("\n");
  terminal_.flush();
}

void AnswerPrinter::print(const std::vector<ThoughtSplitter::Piece>& pieces) {
  for (const auto& [is_thought, text] : pieces) {
    if (is_thought) {
      thinking_ += text;
      if (silent_ || show_ == ShowThoughts::no) continue;
      if (!thought_open_) open_thought();
      if (show_ == ShowThoughts::yes) {
        terminal_.write_foreign(text);
      } else if (terminal_.can_dim() && ++n_pieces_ % pieces_per_update == 0) {
        terminal_.write(fmt::format("{}{}thinking… {}{}", erase_line, dim, n_pieces_, plain));
      }
    } else {
      answer_ += text;
      if (silent_) continue;
      if (thought_open_) close_thought(true);
      terminal_.write_foreign(text);
    }
  }
}

void AnswerPrinter::open_thought() {
  thought_open_ = true;
  if (show_ == ShowThoughts::folded) {
    if (terminal_.can_dim()) terminal_.write(fmt::format("{}thinking…{}", dim, plain));
  } else {
    terminal_.write(terminal_.can_dim() ? dim : "<think>\n");
  }
}

// Where nothing can be dimmed, the tags tell thoughts and answer apart.
void AnswerPrinter::close_thought(bool complete) {
  thought_open_ = false;
  if (show_ == ShowThoughts::folded) {
    if (terminal_.can_dim()) terminal_.write(erase_line);
  } else if (terminal_.can_dim()) {
    terminal_.write(plain);
    terminal_.write(complete ? "\n\n" : "\n");
  } else {
    terminal_.write(complete ? "\n</think>\n\n" : "\n");
  }
}

}  // namespace r1::cli
