// Which mix a command line asks for: a hand-made recipe, a recipe file, or what fits this machine.
#pragma once

#include <r1/result.h>

#include <CLI/CLI.hpp>
#include <string>

#include "convert/mix.h"

namespace r1::convert {

struct MixFlags {
  std::string recipe;
  void add_to(CLI::App& app);
  [[nodiscard]] std::string problem() const;  // wrong usage; empty: none
};

// Says on standard error what it chose where the flags leave that open.
[[nodiscard]] Result<Mix> choose_mix(const MixFlags& flags, const rt::ModelConfig& config);

}  // namespace r1::convert
