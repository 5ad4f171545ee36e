// Standard output and error of the program: checked writes, dim text, human-readable numbers.
#pragma once

#include <r1/result.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace r1::cli {

enum ExitCode : int { exit_done = 0, exit_failed = 1, exit_usage = 2 };

// What messages begin with: "r1", or what a program of this code says at its start.
void set_program_name(const char* name);
// Prints "r1: <error>" as one line on standard error; what the program then exits with.
int report(const Error& error);
void warn(std::string_view message);

// Standard output. Everything the program prints goes through here, so that a full disk or a closed pipe is an error.
class Terminal {
 public:
  Terminal();

  [[nodiscard]] bool is_terminal() const { return is_terminal_; }
  [[nodiscard]] bool can_dim() const { return can_dim_; }  // a terminal, and NO_COLOR is not set (no-color.org)
  // Text as it is; false once a write failed.
  bool write(std::string_view text);
  // Text of a model or a file: on a terminal, control characters that could steer it become visible.
  bool write_foreign(std::string_view text);
  bool flush();
  // The write that failed, if one did.
  [[nodiscard]] Result<void> status() const;

 private:
  bool is_terminal_ = false, can_dim_ = false;
  int errno_ = 0;
};

// One line of JSON, always valid UTF-8: what is not becomes U+FFFD.
[[nodiscard]] std::string to_line(const nlohmann::ordered_json& json);

[[nodiscard]] std::string human_bytes(std::uint64_t bytes);  // "12.3 GB": powers of 1000, as drives are sold
[[nodiscard]] std::string human_count(std::uint64_t count);  // "20.9 M"
[[nodiscard]] std::string human_rate(double bytes_per_s);    // "12.3 GB/s"

}  // namespace r1::cli
