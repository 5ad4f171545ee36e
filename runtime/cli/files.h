// Whole files and standard input, read with a limit.
#pragma once

#include <r1/result.h>

#include <string>

namespace r1::cli {

// `path` "-": standard input.
[[nodiscard]] Result<std::string> read_input(const std::string& path);
[[nodiscard]] Result<void> write_file(const std::string& path, const std::string& text);

}  // namespace r1::cli
