// Runs the built program as a user would, with pipes or on a terminal of its own.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <map>
#include <string>
#include <vector>

struct ProgramResult {
  int exit_code = -1;  // −signal if a signal ended it
  std::string out, err;
};

struct ProgramInput {
  std::string standard_input;
  std::map<std::string, std::string> environment;  // added
  std::string standard_output;                     // a path to write to instead; "closed": none at all
};

// R1_PROGRAM with these arguments. Ends it after two minutes.
ProgramResult run_r1(const std::vector<std::string>& arguments, const ProgramInput& input = {});

// The program on a pseudo terminal: type, and wait for what it shows.
class TerminalProgram {
 public:
  TerminalProgram(const std::vector<std::string>& arguments, const std::map<std::string, std::string>& environment);
  ~TerminalProgram();
  TerminalProgram(const TerminalProgram&) = delete;
  TerminalProgram& operator=(const TerminalProgram&) = delete;

  void type(const std::string& keys);
  // Reads until `text` was shown behind everything found before; false after a minute without it.
  bool shows(const std::string& text);
  int wait();                                                          // exit code, as in ProgramResult
  [[nodiscard]] const std::string& screen() const { return screen_; }  // everything it wrote

 private:
  bool read_some(std::chrono::steady_clock::time_point deadline);
  pid_t pid_ = -1;
  int fd_ = -1;
  std::size_t seen_ = 0;
  std::string screen_;
};
