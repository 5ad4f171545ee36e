#include "runtime/eval_cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace r1::eval_cli {
namespace {

std::string clock_text(double seconds) {
  const auto s = static_cast<std::uint64_t>(seconds);
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
                   : fmt::format("{}:{:02}", s / 60, s % 60);
}

}  // namespace

Progress::Progress(std::string unit, std::uint64_t n_total, bool quiet)
    : unit_(std::move(unit)),
      n_total_(n_total),
      quiet_(quiet),
      is_terminal_(::isatty(STDERR_FILENO) == 1),
      start_(Clock::now()),
      last_(start_) {}

Progress::~Progress() {
  if (drawn_) fmt::print(stderr, "\n");
}

void Progress::start_from(std::uint64_t n_done) {
  n_before_ = n_done;
  if (!quiet_ && n_done > 0) fmt::print(stderr, "going on behind {} of {} {}\n", n_done, n_total_, unit_);
}

void Progress::show(std::uint64_t n_done, const std::string& so_far) {
  if (quiet_) return;
  const auto now = Clock::now();
  constexpr std::chrono::seconds between_lines{10};
  if (!is_terminal_ && now - last_ < between_lines && n_done != n_total_) return;
  last_ = now;
  std::string text = fmt::format("{} of {} {}", n_done, n_total_, unit_);
  if (!so_far.empty()) text += "  " + so_far;
  if (n_done > n_before_ && n_done < n_total_) {
    const double seconds = std::chrono::duration<double>(now - start_).count();
    text += fmt::format("  {} left", clock_text(seconds * static_cast<double>(n_total_ - n_done) /
                                                static_cast<double>(n_done - n_before_)));
  }
  if (is_terminal_) {
    fmt::print(stderr, "\r\x1b[K{}", text);
  } else {
    fmt::print(stderr, "{}\n", text);
  }
  std::fflush(stderr);
  drawn_ = is_terminal_;
}

}  // namespace r1::eval_cli
