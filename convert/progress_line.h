// Progress on stderr: one redrawn line on a terminal, a plain line now and then elsewhere.
#pragma once

#include <chrono>

#include "convert/pipeline.h"

namespace r1::convert {

class ProgressLine {
 public:
  ProgressLine();
  void show(const Progress& progress);
  void finish();  // leaves the cursor on a fresh line

 private:
  bool terminal_, drawn_ = false;
  std::chrono::steady_clock::time_point start_, last_;
};

}  // namespace r1::convert
