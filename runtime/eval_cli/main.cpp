// r1-eval: how good a model is, and what quantization did to it.
#include <utility>
#include <vector>

#include "runtime/cli/program.h"
#include "runtime/eval_cli/commands.h"

namespace {

using namespace r1::cli;
using namespace r1::eval_cli;

int run(int argc, char** argv) {
  CLI::App app("Measures models: perplexity, divergence from a base, answers to tasks.", "r1-eval");
  app.require_subcommand(1);
  describe(app);

  std::vector<std::pair<CLI::App*, Command>> commands;
  const auto add = [&](const char* name, const char* help, Command (*add_options)(CLI::App&)) {
    CLI::App* const subcommand = app.add_subcommand(name, help)->footer("");
    commands.emplace_back(subcommand, add_options(*subcommand));
  };
  add("ppl", "Perplexity: how surprised a model is by a text", add_ppl);
  add("kld", "How far a model's predictions are from those of the base it was made of", add_kld);
  add("logits", "Store a base's predictions, to compare many models with one run of it", add_logits);
  add("tasks", "Questions with known answers: pass@1 and cons@K", add_tasks);

  if (const auto code = parse(app, argc, argv)) return *code;

  Terminal terminal;
  int code = exit_usage;
  for (const auto& [subcommand, command] : commands) {
    if (subcommand->parsed()) code = command(terminal);
  }
  terminal.flush();
  const auto written = terminal.status();
  return written || code != exit_done ? code : report(written.error());
}

}  // namespace

int main(int argc, char** argv) {
  return run_program("r1-eval", run, argc, argv);
}
