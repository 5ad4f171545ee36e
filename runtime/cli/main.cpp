// r1: talk to a model, and look into it.
#include <fcntl.h>
#include <r1/system.h>
#include <unistd.h>

#include <algorithm>
#include <clocale>
#include <csignal>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "runtime/cli/commands.h"

namespace {

using namespace r1::cli;

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

int run_program(int argc, char** argv) {
  CLI::App app("Runs DeepSeek-R1 and its family on CPUs.", "r1");
  app.set_version_flag("--version", std::string("r1 ") + r1::version());
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  app.footer("Each command has its own --help. Exit codes: 0 done, 1 failed, 2 wrong usage.");

  std::vector<std::pair<CLI::App*, Command>> commands;
  const auto add = [&](const char* name, const char* help, Command (*add_options)(CLI::App&)) {
    CLI::App* const subcommand = app.add_subcommand(name, help)->footer("");
    commands.emplace_back(subcommand, add_options(*subcommand));
  };
  add("run", "Answer one prompt", add_run);
  add("chat", "Hold a conversation", add_chat);
  add("tokenize", "Ids of a text", add_tokenize);
  add("render", "Conversations as the prompts that a model's template makes of them", add_render);
  add("trace", "Everything inside a forward pass, to compare with a reference", add_trace);
  add("info", "What a model is: architecture, parameters, formats, bytes read per token", add_info);
  add("doctor", "What this machine is, and which kernels it gets", add_doctor);
  add("tune", "Measure what runs a model fastest here, and remember it", add_tune);

  // CLI11 would only say that a command is missing.
  const std::string first = argc > 1 ? argv[1] : "-";
  if (!first.starts_with('-') &&
      std::none_of(commands.begin(), commands.end(), [&](const auto& c) { return c.first->get_name() == first; })) {
    return report({r1::ErrorCode::invalid_argument, first + " is no command (r1 --help lists them)", ""});
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
    std::string command = "r1";
    for (const auto& [subcommand, run] : commands) {
      if (subcommand->parsed()) command += " " + subcommand->get_name();
    }
    return report(
        {r1::ErrorCode::invalid_argument, std::string(e.what()) + " (" + command + " --help lists the options)", ""});
  }

  Interrupts interrupts;
  Terminal terminal;
  Environment environment{terminal, interrupts};
  for (const auto& [subcommand, run] : commands) {
    if (!subcommand->parsed()) continue;
    const int code = run(environment);
    terminal.flush();
    const auto written = terminal.status();
    return written || code != exit_done ? code : report(written.error());
  }
  return exit_usage;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);        // a closed pipe is an error of write
  std::setlocale(LC_CTYPE, "C.UTF-8");  // text is UTF-8 whatever the environment says; numbers stay with a point
  if (!occupy_standard_descriptors()) return report({r1::ErrorCode::io, "standard output is closed", ""});
  try {
    return run_program(argc, argv);
  } catch (const std::exception& e) {  // the library throws nothing; memory can still run out anywhere
    return report({r1::ErrorCode::out_of_memory, e.what(), ""});
  }
}
