#include "runtime/cli/terminal.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace r1::cli {
namespace {

const char* program_name = "r1";

std::string one_line(std::string_view text) {
  std::string line(text);
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return line;
}

std::string scaled(double value, const char* const (&units)[6]) {
  int i = 0;
  while (value >= 999.95 && i < 5) {
    value /= 1000;
    ++i;
  }
  return i == 0 ? fmt::format("{:.0f} {}", value, units[i]) : fmt::format("{:.1f} {}", value, units[i]);
}

}  // namespace

void set_program_name(const char* name) {
  program_name = name;
}

int report(const Error& error) {
  fmt::print(stderr, "{}: {}\n", program_name, one_line(error.text()));
  return error.code == ErrorCode::invalid_argument ? exit_usage : exit_failed;
}

void warn(std::string_view message) {
  fmt::print(stderr, "{}: warning: {}\n", program_name, one_line(message));
}

Terminal::Terminal() : is_terminal_(::isatty(STDOUT_FILENO) == 1) {
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  can_dim_ =
      is_terminal_ && (no_color == nullptr || *no_color == '\0') && term != nullptr && std::strcmp(term, "dumb") != 0;
}

bool Terminal::write(std::string_view text) {
  if (errno_ == 0 && std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) errno_ = errno;
  return errno_ == 0;
}

bool Terminal::write_foreign(std::string_view text) {
  if (!is_terminal_) return write(text);
  std::string shown;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0u;
    if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) {
      shown += "\uFFFD";
    } else if (c == 0xc2 && next >= 0x80 && next < 0xa0) {  // C1 controls, which some terminals obey
      shown += "\uFFFD";
      ++i;
    } else {
      shown += text[i];
    }
  }
  return write(shown);
}

bool Terminal::flush() {
  if (errno_ == 0 && std::fflush(stdout) != 0) errno_ = errno;
  return errno_ == 0;
}

Result<void> Terminal::status() const {
  if (errno_ == 0) return {};
  return Error{ErrorCode::io, fmt::format("cannot write: {}", std::strerror(errno_)), "standard output"};
}

std::string to_line(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string human_bytes(std::uint64_t bytes) {
  return scaled(static_cast<double>(bytes), {"bytes", "kB", "MB", "GB", "TB", "PB"});
}

std::string human_count(std::uint64_t count) {
  if (count < 1000) return fmt::format("{}", count);
  return scaled(static_cast<double>(count), {"", "k", "M", "B", "T", "P"});
}

std::string human_rate(double bytes_per_s) {
  return human_bytes(static_cast<std::uint64_t>(bytes_per_s)) + "/s";
}

}  // namespace r1::cli
