// Decode speed by depth of context, as a picture.
#pragma once

#include <string>
#include <vector>

#include "runtime/bench/model_bench.h"

namespace r1::bench {

// An SVG image with one line per number of threads; title: plain text. Empty where nothing was decoded.
[[nodiscard]] std::string speed_by_depth_svg(const std::vector<ModelBenchResult>& results, const std::string& title);

}  // namespace r1::bench
