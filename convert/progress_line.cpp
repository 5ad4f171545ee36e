#include "convert/progress_line.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <string>

namespace r1::convert {
namespace {

std::string clock_text(double seconds) {
  const auto s = static_cast<std::uint64_t>(seconds);
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
                   : fmt::format("{}:{:02}", s / 60, s % 60);
}

}  // namespace

ProgressLine::ProgressLine()
    : terminal_(::isatty(STDERR_FILENO) == 1), start_(std::chrono::steady_clock::now()), last_(start_) {}

void ProgressLine::show(const Progress& p) {
  const auto now = std::chrono::steady_clock::now();
  const bool complete = p.weights_done == p.weights_total;
  if (!terminal_ && !complete && now - last_ < std::chrono::seconds(5)) return;
  if (p.weights_total == 0) return;
  last_ = now;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double fraction = static_cast<double>(p.weights_done) / static_cast<double>(p.weights_total);
  const double left = fraction > 0 ? elapsed / fraction - elapsed : 0;
  const std::string text =
      fmt::format("{:5.1f} %  {:.2f} of {:.2f} GB  {} of {} tensors  {:.1f} MB/s  {} left  {}", 100 * fraction,
                  static_cast<double>(p.source_bytes_done) / 1e9, static_cast<double>(p.source_bytes_total) / 1e9,
                  p.tensors_done, p.tensors_total,
                  static_cast<double>(p.source_bytes_done) / 1e6 / std::max(elapsed, 1e-9), clock_text(left), p.shard);
  if (terminal_) {
    fmt::print(stderr, "\r\x1b[K{}", text);
    drawn_ = true;
  } else {
    fmt::print(stderr, "{}\n", text);
  }
  std::fflush(stderr);
}

void ProgressLine::finish() {
  if (drawn_) fmt::print(stderr, "\n");
  drawn_ = false;
}

}  // namespace r1::convert
