// An answer as it streams: thoughts dimmed, folded or hidden, then the answer itself; both are kept for later.
#pragma once

#include <r1/generate.h>

#include <string>
#include <string_view>
#include <vector>

#include "runtime/cli/terminal.h"

namespace r1::cli {

enum class SplitThoughts { yes, no };  // no: all text is answer, to the letter
enum class ShowThoughts { yes, folded, no };

class AnswerPrinter {
 public:
  // `silent`: collects only, as --json wants it.
  AnswerPrinter(Terminal& terminal, SplitThoughts split, bool starts_in_thinking, ShowThoughts show, bool silent)
      : terminal_(terminal), split_(split), splitter_(starts_in_thinking), show_(show), silent_(silent) {}

  bool push(std::string_view text);  // false once a write failed
  void finish();                     // ends the last line

  [[nodiscard]] const std::string& thinking() const { return thinking_; }
  [[nodiscard]] const std::string& answer() const { return answer_; }
  [[nodiscard]] bool ended_in_thought() const { return splitter_.in_thought(); }

 private:
  void print(const std::vector<ThoughtSplitter::Piece>& pieces);
  void open_thought();
  void close_thought(bool complete);
  Terminal& terminal_;
  SplitThoughts split_;
  ThoughtSplitter splitter_;
  ShowThoughts show_;
  bool silent_;
  bool thought_open_ = false;
  std::uint32_t n_pieces_ = 0;  // of thought; about one per token
  std::string thinking_, answer_;
};

}  // namespace r1::cli
