// Lines from a terminal, with editing and history (libedit), or from a pipe.
#pragma once

#include <memory>
#include <string>

#include "runtime/cli/interrupts.h"

namespace r1::cli {

class LineReader {
 public:
  enum class Status { line, end, interrupted };

  // `interactive`: standard input and output are a terminal. History is kept in $XDG_STATE_HOME/r1rt/history
  // (~/.local/state/r1rt/history).
  LineReader(Interrupts& interrupts, bool interactive);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  [[nodiscard]] bool interactive() const { return interactive_; }
  // One line without its line break; if interrupted, what had been typed.
  [[nodiscard]] Status read(const std::string& prompt, std::string* line);
  void remember(const std::string& line);  // in the history

 private:
  struct Editor;
  bool interactive_;
  std::unique_ptr<Editor> editor_;
};

}  // namespace r1::cli
