// What all commands of r1-quantize share: parsing, exit codes, errors as one line.
#pragma once

#include <r1/result.h>

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

namespace r1::convert {

// The exit code if the program ends here: --help, or wrong usage.
[[nodiscard]] std::optional<int> parse_command_line(CLI::App& app, int argc, char** argv);
int wrong_usage(const CLI::App& app, const std::string& problem);  // 2
int exit_code(const Result<void>& result);                         // 0, or 1 with the error told

void add_threads(CLI::App& app, int& n_threads);

}  // namespace r1::convert
