// Progress on standard error: one redrawn line on a terminal, a plain line now and then elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace r1::eval_cli {

class Progress {
 public:
  // `unit` in the plural: "windows".
  Progress(std::string unit, std::uint64_t n_total, bool quiet);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  // What an earlier run did: it says nothing about the time that is left.
  void start_from(std::uint64_t n_done);
  void show(std::uint64_t n_done, const std::string& so_far);

 private:
  using Clock = std::chrono::steady_clock;
  std::string unit_;
  std::uint64_t n_total_, n_before_ = 0;
  bool quiet_, is_terminal_, drawn_ = false;
  Clock::time_point start_, last_;
};

}  // namespace r1::eval_cli
