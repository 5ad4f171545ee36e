// What every program does around its own work.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

namespace r1::cli {

// Help and version of a program whose commands, if it has any, are subcommands.
void describe(CLI::App& app);

// Reads the command line. A value is the exit code of a program that ends here: its help or version was asked for, or
// the usage was wrong, which is told in one line.
[[nodiscard]] std::optional<int> parse(CLI::App& app, int argc, char** argv);

// The body of main(): `run` in the environment that the programs count on. Text is UTF-8 whatever the locale, a closed
// pipe is an error of write, the standard descriptors are taken, and memory that runs out is an error like others.
int run_program(const char* name, int (*run)(int argc, char** argv), int argc, char** argv);

}  // namespace r1::cli
