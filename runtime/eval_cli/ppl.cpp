// r1-eval ppl: perplexity of a text.
#include <fmt/format.h>

#include <memory>

#include "runtime/cli/files.h"
#include "runtime/eval/journal.h"
#include "runtime/eval/score.h"
#include "runtime/eval_cli/commands.h"
#include "runtime/eval_cli/flags.h"
#include "runtime/eval_cli/progress.h"
#include "runtime/eval_cli/svg.h"

namespace r1::eval_cli {
namespace {

struct PplFlags {
  cli::ModelFlags model;
  MachineFlags machine;
  TextFlags text;
  OutputFlags output;
};

Result<void> draw(const PplFlags& flags, const eval::PerplexityReport& report,
                  const std::vector<eval::TokenScore>& scores) {
  std::vector<double> nll;
  for (const eval::TokenScore& score : scores) nll.push_back(-score.logprob);
  Histogram histogram;
  histogram.title = fmt::format("Perplexity {}", to_text(report.perplexity));
  histogram.subtitle = fmt::format("{} · {} · {} tokens", flags.model.options.path, flags.text.path, report.n_tokens);
  histogram.x_label = "negative log-probability of a token, nats";
  histogram.values = nll;
  histogram.marks = {{report.mean_nll.value, fmt::format("mean {}", to_text(report.mean_nll))}};
  return cli::write_file(flags.output.svg_path, draw_histogram(histogram));
}

int run(const PplFlags& flags, cli::Terminal& terminal) {
  const auto model = flags.model.open();
  if (!model) return cli::report(model.error());
  const auto windows = flags.text.windows(**model, flags.output.quiet);
  if (!windows) return cli::report(windows.error());
  const auto rows = eval::ModelRows::create(*model, *windows, flags.machine.run_options());
  if (!rows) return cli::report(rows.error());

  Progress progress("windows", windows->n_windows(), flags.output.quiet);
  eval::ScoreOptions options;
  options.run = flags.machine.run_options();
  options.state_path = flags.output.state_path;
  options.key.run = eval::key_of(
      {0, (*model)->info().fingerprint, windows->fingerprint(), static_cast<std::uint64_t>(options.run.kv_type)});
  options.key.tokens = eval::key_of({0, windows->fingerprint()});
  options.on_resume = [&](std::uint32_t n_done) { progress.start_from(n_done); };
  options.on_window = [&](std::uint32_t n_done, auto scores) {
    progress.show(n_done, "perplexity " + to_text(eval::perplexity_report(scores).perplexity));
    return true;
  };
  const auto scores = eval::score_windows(**rows, nullptr, *windows, options);
  if (!scores) return cli::report(scores.error());
  const eval::PerplexityReport report = eval::perplexity_report(*scores);
  if (!flags.output.svg_path.empty()) {
    if (const auto drawn = draw(flags, report, *scores); !drawn) return cli::report(drawn.error());
  }
  if (flags.output.json) {
    nlohmann::ordered_json json = {{"model", flags.model.options.path}, {"text", flags.text.path}};
    json.update(to_json(*windows));
    json["n_tokens"] = report.n_tokens;
    json["mean_nll"] = to_json(report.mean_nll);
    json["perplexity"] = to_json(report.perplexity);
    terminal.write(cli::to_line(json));
  } else {
    terminal.write(fmt::format("perplexity  {}\n{}", to_text(report.perplexity), to_text(*windows)));
  }
  return cli::exit_done;
}

}  // namespace

Command add_ppl(CLI::App& app) {
  const auto flags = std::make_shared<PplFlags>();
  flags->model.add_to(app, false);
  flags->text.add_to(app)->required();
  flags->machine.add_to(app, flags->model);
  flags->output.add_to(app, true);
  return [flags](cli::Terminal& terminal) { return run(*flags, terminal); };
}

}  // namespace r1::eval_cli
