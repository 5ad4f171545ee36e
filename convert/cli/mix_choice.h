// Which mix a command line asks for: a hand-made recipe, a recipe file, what fits a size, or what fits this machine.
#pragma once

#include <r1/result.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "convert/mix.h"
#include "convert/plan.h"

namespace r1::convert {

struct MixFlags {
  std::string recipe;
  std::string fit, sensitivity;
  double speed_weight = 0;
  void add_to(CLI::App& app);
  void add_fit_to(CLI::App& app);
  [[nodiscard]] std::string problem() const;  // wrong usage; empty: none
};

// What is known of the model that the mix is for.
struct MixModel {
  const rt::ModelConfig& config;
  IsBf16 is_bf16;
  std::function<Result<std::string>()> identity;  // null: only its config is known
};

// Says on standard error what it chose where the flags leave that open. A fit is shown as a table, on standard error if
// standard output is for JSON.
[[nodiscard]] Result<Mix> choose_mix(const MixFlags& flags, const MixModel& model, bool json = false);

}  // namespace r1::convert
