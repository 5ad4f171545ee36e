#include "convert/cli/command.h"

#include <fmt/format.h>

namespace r1::convert {

std::optional<int> parse_command_line(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    fmt::print("{}", app.help());
    return 0;
  } catch (const CLI::ParseError& e) {
    return wrong_usage(app, e.what());
  }
  return std::nullopt;
}

int wrong_usage(const CLI::App& app, const std::string& problem) {
  fmt::print(stderr, "r1-quantize: {}; see {} --help\n", problem, app.get_name());
  return 2;
}

int exit_code(const Result<void>& result) {
  if (result) return 0;
  fmt::print(stderr, "r1-quantize: {}\n", result.error().text());
  return 1;
}

void add_threads(CLI::App& app, int& n_threads) {
  app.add_option("--threads", n_threads, "Threads; the default is one per core")->check(CLI::Range(1, 1024));
}

}  // namespace r1::convert
