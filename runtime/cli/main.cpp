// r1: talk to a model, and look into it.
#include <utility>
#include <vector>

#include "runtime/cli/commands.h"
#include "runtime/cli/program.h"

namespace {

using namespace r1::cli;

int run(int argc, char** argv) {
  CLI::App app("Runs DeepSeek-R1 and its family on CPUs.", "r1");
  app.require_subcommand(1);
  describe(app);

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

  if (const auto code = parse(app, argc, argv)) return *code;

  Interrupts interrupts;
  Terminal terminal;
  Environment environment{terminal, interrupts};
  for (const auto& [subcommand, command] : commands) {
    if (!subcommand->parsed()) continue;
    const int code = command(environment);
    terminal.flush();
    const auto written = terminal.status();
    return written || code != exit_done ? code : report(written.error());
  }
  return exit_usage;
}

}  // namespace

int main(int argc, char** argv) {
  return run_program("r1", run, argc, argv);
}
