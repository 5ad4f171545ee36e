#include "runtime/cli/line_reader.h"

#include <histedit.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cwchar>
#include <filesystem>
#include <iostream>
#include <system_error>

namespace r1::cli {
namespace {

constexpr int max_history_lines = 1000;

// Empty where there is no home.
std::filesystem::path history_path() {
  const char* state = std::getenv("XDG_STATE_HOME");
  if (state != nullptr && *state == '/') return std::filesystem::path(state) / "r1rt" / "history";
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') return {};
  return std::filesystem::path(home) / ".local" / "state" / "r1rt" / "history";
}

}  // namespace

struct LineReader::Editor {
  Interrupts& interrupts;
  std::string prompt;
  bool interrupted = false;
  std::string dropped;  // what had been typed when it was interrupted
  EditLine* edit = nullptr;
  History* history = nullptr;
  std::filesystem::path file;

  explicit Editor(Interrupts& i) : interrupts(i), file(history_path()) {
    HistEvent event;
    history = history_init();
    ::history(history, &event, H_SETSIZE, max_history_lines);
    ::history(history, &event, H_SETUNIQUE, 1);
    if (!file.empty()) ::history(history, &event, H_LOAD, file.c_str());

    edit = el_init("r1", stdin, stdout, stderr);
    el_set(edit, EL_CLIENTDATA, this);
    el_set(edit, EL_EDITOR, "emacs");
    el_set(
        edit, EL_PROMPT, +[](EditLine* e) { return of(e)->prompt.data(); });
    el_set(edit, EL_HIST, ::history, history);
    el_set(edit, EL_BIND, "^R", "em-inc-search-prev", nullptr);
    el_set(edit, EL_BIND, "\\e[1;5C", "em-next-word", nullptr);
    el_set(edit, EL_BIND, "\\e[1;5D", "ed-prev-word", nullptr);
    el_set(edit, EL_BIND, "\\e[3~", "ed-delete-next-char", nullptr);
    el_source(edit, nullptr);  // ~/.editrc
    el_set(edit, EL_GETCFN, &Editor::read_character);
  }

  ~Editor() {
    el_end(edit);
    history_end(history);
  }
  Editor(const Editor&) = delete;
  Editor& operator=(const Editor&) = delete;

  static Editor* of(EditLine* edit) {
    void* self = nullptr;
    el_get(edit, EL_CLIENTDATA, &self);
    return static_cast<Editor*>(self);
  }

  // One character for libedit: 1, 0 at the end, −1 if interrupted. Bytes that are no UTF-8 are passed over.
  static int read_character(EditLine* edit, wchar_t* out) {
    Editor& self = *of(edit);
    std::mbstate_t state = {};
    for (;;) {
      pollfd fds[] = {{STDIN_FILENO, POLLIN, 0}, {self.interrupts.line_editing_fd(), POLLIN, 0}};
      if (::poll(fds, 2, -1) < 0) {
        if (errno == EINTR) continue;
        return -1;
      }
      if (fds[1].revents != 0) {
        self.interrupts.drain();
        self.interrupted = true;
        const LineInfo* const info = el_line(edit);
        self.dropped.assign(info->buffer, info->lastchar);
        return -1;
      }
      char byte = 0;
      const ssize_t n = ::read(STDIN_FILENO, &byte, 1);
      if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (n <= 0) return 0;
      const std::size_t used = std::mbrtowc(out, &byte, 1, &state);
      if (used == static_cast<std::size_t>(-2)) continue;  // more bytes belong to this character
      if (used == static_cast<std::size_t>(-1)) {
        state = {};
        continue;
      }
      return 1;
    }
  }
};

LineReader::LineReader(Interrupts& interrupts, bool interactive) : interactive_(interactive) {
  if (interactive) editor_ = std::make_unique<Editor>(interrupts);
}

LineReader::~LineReader() = default;

LineReader::Status LineReader::read(const std::string& prompt, std::string* line) {
  if (!interactive_) {
    if (!std::getline(std::cin, *line)) return Status::end;
    if (line->ends_with('\r')) line->pop_back();
    return Status::line;
  }
  editor_->prompt = prompt;
  editor_->interrupted = false;
  el_resize(editor_->edit);
  int length = 0;
  editor_->interrupts.set_line_editing(true);
  el_set(editor_->edit, EL_PREP_TERM,
         1);  // el_gets would show the prompt first, and keys typed then would be echoed twice
  const char* text = el_gets(editor_->edit, &length);
  editor_->interrupts.set_line_editing(false);
  if (editor_->interrupted) {
    *line = editor_->dropped;
    return Status::interrupted;
  }
  if (text == nullptr || length <= 0) return Status::end;
  *line = text;
  while (line->ends_with('\n') || line->ends_with('\r')) line->pop_back();
  return Status::line;
}

void LineReader::remember(const std::string& line) {
  if (!interactive_ || line.find_first_not_of(" \t") == std::string::npos) return;
  HistEvent event;
  ::history(editor_->history, &event, H_ENTER, line.c_str());
  if (editor_->file.empty()) return;
  // Saved at once, so that a crash or a second program loses nothing; a read-only home costs the history only.
  std::error_code ignored;
  std::filesystem::create_directories(editor_->file.parent_path(), ignored);
  ::history(editor_->history, &event, H_SAVE, editor_->file.c_str());
  std::filesystem::permissions(editor_->file, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write,
                               ignored);
}

}  // namespace r1::cli
