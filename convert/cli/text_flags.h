// The text that a command runs through a model, and how it is cut.
#pragma once

#include <r1/model.h>
#include <r1/result.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "runtime/eval/windows.h"

namespace r1::convert {

struct TextFlags {
  std::string path;
  std::uint32_t context_tokens = eval::default_window_tokens, max_windows = 0;
  bool documents = false;
  void add_to(CLI::App& app);
  // Special tokens in the text are special tokens: a dialogue's turns are what a chat model is to be good at.
  [[nodiscard]] Result<eval::Windows> windows(const Model& model) const;
};

// A count and the time on standard error: one line redrawn on a terminal, a plain one now and then elsewhere.
class CountLine {
 public:
  CountLine();
  // "3 of 8 windows of 512 tokens, 12 s"
  void show(std::uint64_t n_done, std::uint64_t n_all, const std::string& unit);

 private:
  bool is_terminal_;
  std::chrono::steady_clock::time_point start_, shown_;
};

}  // namespace r1::convert
