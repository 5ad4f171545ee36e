// The commands of the program `r1-eval`. Each adds its options to its subcommand; what it returns, when chosen, is the
// exit code.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "runtime/cli/terminal.h"

namespace r1::eval_cli {

using Command = std::function<int(cli::Terminal&)>;

Command add_ppl(CLI::App& app);
Command add_kld(CLI::App& app);
Command add_logits(CLI::App& app);
Command add_tasks(CLI::App& app);

}  // namespace r1::eval_cli
