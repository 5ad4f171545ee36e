#include "convert/cli/text_flags.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "runtime/base/try.h"
#include "runtime/io/file.h"

namespace r1::convert {

void TextFlags::add_to(CLI::App& app) {
  app.add_option("--text", path, "UTF-8 text; special tokens in it are special tokens")->required();
  app.add_flag("--documents", documents,
               "Each document, from one begin-of-sequence token to the next, is a sequence of its own");
  app.add_option("--context", context_tokens, "Tokens of a window, or the most of a document")
      ->capture_default_str()
      ->check(CLI::Range(eval::min_window_tokens, 1u << 20));
  app.add_option("--windows", max_windows, "No more windows than this; 0: all")->capture_default_str();
}

Result<eval::Windows> TextFlags::windows(const Model& model) const {
  constexpr std::uint64_t max_text_bytes = std::uint64_t{1} << 30;
  R1_TRY(const std::string text, rt::read_text_file(path, max_text_bytes));
  R1_TRY(const auto tokenizer, model.tokenizer());
  eval::WindowOptions cut;
  cut.window_tokens = context_tokens;
  cut.max_windows = max_windows;
  cut.special = SpecialTokens::parsed;
  cut.documents = documents;
  R1_TRY(eval::Windows windows, eval::make_windows(*tokenizer, text, cut, path));
  if (windows.is_short) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("the text has {} tokens, fewer than one context: give more text, or a shorter --context",
                             windows.longest()),
                 path};
  }
  return windows;
}

CountLine::CountLine()
    : is_terminal_(::isatty(STDERR_FILENO) == 1), start_(std::chrono::steady_clock::now()), shown_(start_) {}

void CountLine::show(std::uint64_t n_done, std::uint64_t n_all, const std::string& unit) {
  const auto now = std::chrono::steady_clock::now();
  if (n_done < n_all && now - shown_ < std::chrono::milliseconds(is_terminal_ ? 200 : 5000)) return;
  shown_ = now;
  fmt::print(stderr, "{}{} of {} {}, {:.0f} s{}", is_terminal_ ? "\r\x1b[K" : "", n_done, n_all, unit,
             std::chrono::duration<double>(now - start_).count(), is_terminal_ && n_done < n_all ? "" : "\n");
  std::fflush(stderr);
}

}  // namespace r1::convert
