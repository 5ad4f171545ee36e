// Attempts in a file, a line each as they end: what a run of tasks goes on from. The first line holds the run's
// settings.
#pragma once

#include <r1/result.h>

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/eval/tasks.h"

namespace r1::eval_cli {

class ResultsFile {
 public:
  // Makes the file, with `settings` (a JSON object) as its first line, or takes up the one there: its settings must be
  // the same. A line that a crash has cut off is removed.
  static Result<ResultsFile> open(const std::string& path, const std::string& settings);
  ~ResultsFile();
  ResultsFile(ResultsFile&& other) noexcept;
  ResultsFile& operator=(ResultsFile&& other) = delete;

  [[nodiscard]] const std::vector<eval::Attempt>& attempts() const { return attempts_; }  // found
  Result<void> append(const eval::Attempt& attempt, const eval::Task& task);

 private:
  ResultsFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  Result<void> write_line(std::string line);
  std::string path_;
  int fd_ = -1;
  std::vector<eval::Attempt> attempts_;
};

}  // namespace r1::eval_cli
