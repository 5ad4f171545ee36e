// Small drawings of results: files that any browser shows, without a library.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace r1::eval_cli {

struct Bar {
  std::string label;
  double value = 0, error = 0;  // 0 … 1
};

struct Mark {
  double x = 0;
  std::string label;
};

// Horizontal bars from 0 to 100 %.
[[nodiscard]] std::string draw_bars(const std::string& title, const std::string& subtitle, std::span<const Bar> bars);

// How often values fall where. log_x: decades; what is not above `least` falls into the first bin.
struct Histogram {
  std::string title, subtitle, x_label;
  std::span<const double> values;
  bool log_x = false;
  double least = 0;
  std::vector<Mark> marks;
};
[[nodiscard]] std::string draw_histogram(const Histogram& histogram);

}  // namespace r1::eval_cli
