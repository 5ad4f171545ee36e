// A figure that was measured several times.
#pragma once

#include <algorithm>
#include <vector>

namespace r1::bench {

struct Spread {
  double median = 0, lowest = 0, highest = 0;
  double lower_quartile = 0, upper_quartile = 0;  // half of the values lie between them

  // values: not empty
  static Spread of(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    const std::size_t n = values.size();
    const double middle = n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
    return {middle, values.front(), values.back(), values[(n - 1) / 4], values[n - 1 - (n - 1) / 4]};
  }
};

}  // namespace r1::bench
