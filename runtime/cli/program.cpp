#include "runtime/cli/program.h"

#include <fcntl.h>
#include <r1/system.h>
#include <unistd.h>

#include <algorithm>
#include <clocale>
#include <csignal>
#include <exception>

#include "runtime/cli/terminal.h"

namespace r1::cli {
namespace {

// A standard descriptor that is closed would be given to the next file opened, which output would then overwrite.
bool occupy_standard_descriptors() {
  bool stdout_was_open = true;
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) != -1) continue;
    if (fd == STDOUT_FILENO) stdout_was_open = false;
    [[maybe_unused]] const int opened = ::open("/dev/null", fd == STDIN_FILENO ? O_RDONLY : O_WRONLY);
  }
  return stdout_was_open;
}

int wrong_usage(const std::string& what) {
  return report({ErrorCode::invalid_argument, what, ""});
}

}  // namespace

void describe(CLI::App& app) {
  const bool has_commands = app.get_require_subcommand_min() > 0;
  app.set_version_flag("--version", app.get_name() + " " + version());
  app.get_formatter()->column_width(34);
  app.footer(std::string(has_commands ? "Each command has its own --help. " : "") +
             "Exit codes: 0 done, 1 failed, 2 wrong usage.");
}

std::optional<int> parse(CLI::App& app, int argc, char** argv) {
  const std::string name = app.get_name();
  const auto commands = app.get_subcommands([](const CLI::App*) { return true; });
  // CLI11 would only say that a command is missing.
  const std::string first = argc > 1 ? argv[1] : "-";
  if (app.get_require_subcommand_min() > 0 && !first.starts_with('-') &&
      std::none_of(commands.begin(), commands.end(), [&](const CLI::App* c) { return c->get_name() == first; })) {
    return wrong_usage(first + " is no command (" + name + " --help lists them)");
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) {
      app.exit(e);  // --help, --version
      Terminal terminal;
      terminal.flush();
      const auto written = terminal.status();
      return written ? exit_done : report(written.error());
    }
    std::string command = name;
    for (const CLI::App* subcommand : app.get_subcommands()) command += " " + subcommand->get_name();
    return wrong_usage(std::string(e.what()) + " (" + command + " --help lists the options)");
  }
  return {};
}

int run_program(const char* name, int (*run)(int argc, char** argv), int argc, char** argv) {
  set_program_name(name);
  std::signal(SIGPIPE, SIG_IGN);
  std::setlocale(LC_CTYPE, "C.UTF-8");  // numbers stay with a point
  if (!occupy_standard_descriptors()) return report({ErrorCode::io, "standard output is closed", ""});
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {  // the library throws nothing; memory can still run out anywhere
    return report({ErrorCode::out_of_memory, e.what(), ""});
  }
}

}  // namespace r1::cli
