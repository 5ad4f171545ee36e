// The commands of the program `r1`. Each adds its options to its subcommand; what it returns, when chosen, is the exit
// code.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "runtime/cli/interrupts.h"
#include "runtime/cli/terminal.h"

namespace r1::cli {

struct Environment {
  Terminal& terminal;
  Interrupts& interrupts;
};

using Command = std::function<int(Environment&)>;

Command add_run(CLI::App& app);
Command add_chat(CLI::App& app);
Command add_tokenize(CLI::App& app);
Command add_render(CLI::App& app);
Command add_trace(CLI::App& app);
Command add_info(CLI::App& app);
Command add_doctor(CLI::App& app);
Command add_tune(CLI::App& app);

}  // namespace r1::cli
