// r1-eval: how good a model is, and what quantization did to it.
#include <r1/system.h>

#include <algorithm>
#include <clocale>
#include <csignal>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "runtime/eval_cli/commands.h"

namespace {

using namespace r1::cli;
using namespace r1::eval_cli;

int run_program(int argc, char** argv) {
  CLI::App app("Measures models: perplexity, divergence from a base, answers to tasks.", "r1-eval");
  app.set_version_flag("--version", std::string("r1-eval ") + r1::version());
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  app.footer("Each command has its own --help. Exit codes: 0 done, 1 failed, 2 wrong usage.");

  std::vector<std::pair<CLI::App*, Command>> commands;
  const auto add = [&](const char* name, const char* help, Command (*add_options)(CLI::App&)) {
    CLI::App* const subcommand = app.add_subcommand(name, help)->footer("");
    commands.emplace_back(subcommand, add_options(*subcommand));
  };
  add("ppl", "Perplexity: how surprised a model is by a text", add_ppl);
  add("kld", "How far a model's predictions are from those of the base it was made of", add_kld);
  add("logits", "Store a base's predictions, to compare many models with one run of it", add_logits);
  add("tasks", "Questions with known answers: pass@1 and cons@K", add_tasks);

  // CLI11 would only say that a command is missing.
  const std::string first = argc > 1 ? argv[1] : "-";
  if (!first.starts_with('-') &&
      std::none_of(commands.begin(), commands.end(), [&](const auto& c) { return c.first->get_name() == first; })) {
    return report({r1::ErrorCode::invalid_argument, first + " is no command (r1-eval --help lists them)", ""});
  }
  Terminal terminal;
  int code = exit_usage;
  try {
    app.parse(argc, argv);
    for (const auto& [subcommand, run] : commands) {
      if (subcommand->parsed()) code = run(terminal);
    }
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() != 0) {
      std::string command = "r1-eval";
      for (const auto& [subcommand, run] : commands) {
        if (subcommand->parsed()) command += " " + subcommand->get_name();
      }
      return report(
          {r1::ErrorCode::invalid_argument, std::string(e.what()) + " (" + command + " --help lists the options)", ""});
    }
    code = app.exit(e);  // --help, --version
  }
  terminal.flush();
  const auto written = terminal.status();
  return written || code != exit_done ? code : report(written.error());
}

}  // namespace

int main(int argc, char** argv) {
  set_program_name("r1-eval");
  std::signal(SIGPIPE, SIG_IGN);        // a closed pipe is an error of write
  std::setlocale(LC_CTYPE, "C.UTF-8");  // text is UTF-8 whatever the environment says; numbers stay with a point
  try {
    return run_program(argc, argv);
  } catch (const std::exception& e) {  // the library throws nothing; memory can still run out anywhere
    return report({r1::ErrorCode::out_of_memory, e.what(), ""});
  }
}
