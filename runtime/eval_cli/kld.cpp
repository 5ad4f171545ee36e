// r1-eval kld: how far a model's predictions are from a base's.
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <optional>

#include "runtime/cli/files.h"
#include "runtime/eval/base_logits.h"
#include "runtime/eval/journal.h"
#include "runtime/eval/score.h"
#include "runtime/eval_cli/commands.h"
#include "runtime/eval_cli/flags.h"
#include "runtime/eval_cli/progress.h"
#include "runtime/eval_cli/svg.h"

namespace r1::eval_cli {
namespace {

struct KldFlags {
  cli::ModelFlags model;
  MachineFlags machine;
  TextFlags text;
  OutputFlags output;
  std::string base, against;
};

// The base, a running model or a file, and the windows that both are asked about.
struct Base {
  std::unique_ptr<eval::RowSource> rows;
  std::unique_ptr<eval::Windows> windows;  // its address is kept by rows
  std::uint64_t fingerprint = 0;
};

Error another_text(const std::string& base) {
  return {ErrorCode::invalid_argument,
          "its tokens are not those that the model makes of the text: another text, another --context, or another "
          "tokenizer",
          base};
}

Error another_vocabulary(const KldFlags& flags, std::uint32_t base_size, const Model& model) {
  return {ErrorCode::invalid_argument,
          fmt::format("a base with a vocabulary of {}, but {} has {}: only models of one vocabulary can be compared",
                      base_size, flags.model.options.path, model.info().vocab_size),
          flags.base};
}

Result<Base> open_file(const KldFlags& flags, const Model& model) {
  auto file = eval::BaseLogits::open(flags.base, flags.machine.run_options());
  if (!file) return file.error();
  if ((*file)->vocab_size() != model.info().vocab_size) return another_vocabulary(flags, (*file)->vocab_size(), model);
  Base base;
  base.windows = std::make_unique<eval::Windows>((*file)->windows());
  for (const Token token : base.windows->tokens) {
    if (token < 0 || static_cast<std::uint32_t>(token) >= model.info().vocab_size) return another_text(flags.base);
  }
  if (!flags.text.path.empty()) {
    // The cut is the file's: of windows of one length, it is the first's.
    TextFlags text = flags.text;
    text.window_tokens = base.windows->longest();
    text.max_windows = base.windows->n_windows();
    const auto windows = text.windows(model, flags.output.quiet);
    if (!windows) return windows.error();
    if (windows->fingerprint() != base.windows->fingerprint()) return another_text(flags.base);
  }
  if (flags.text.max_windows != 0) base.windows->keep_first(flags.text.max_windows);
  base.fingerprint = eval::key_of({1, (*file)->model_fingerprint()});
  base.rows = *std::move(file);
  return base;
}

Result<Base> open_model(const KldFlags& flags, const Model& model) {
  if (flags.text.path.empty()) {
    return Error{ErrorCode::invalid_argument, "a base that is a model needs --text FILE", ""};
  }
  ModelOptions options = flags.model.options;
  options.path = flags.base;
  const auto base_model = Model::open(options);
  if (!base_model) return base_model.error();
  if ((*base_model)->info().vocab_size != model.info().vocab_size) {
    return another_vocabulary(flags, (*base_model)->info().vocab_size, model);
  }
  auto windows = flags.text.windows(model, flags.output.quiet);
  if (!windows) return windows.error();
  const auto base_windows = flags.text.windows(**base_model, true);
  if (!base_windows) return base_windows.error();
  if (windows->fingerprint() != base_windows->fingerprint()) return another_text(flags.base);
  Base base;
  base.windows = std::make_unique<eval::Windows>(*std::move(windows));
  base.fingerprint = eval::key_of(
      {0, (*base_model)->info().fingerprint, static_cast<std::uint64_t>(flags.machine.run_options().kv_type)});
  auto rows = eval::ModelRows::create(*base_model, *base.windows, flags.machine.run_options());
  if (!rows) return rows.error();
  base.rows = *std::move(rows);
  return base;
}

Result<void> draw(const KldFlags& flags, const eval::KldReport& report, const std::vector<eval::TokenScore>& scores) {
  std::vector<double> kld;
  for (const eval::TokenScore& score : scores) kld.push_back(score.kld);
  Histogram histogram;
  histogram.title = fmt::format("KLD {}, same top token {:.2f} %", to_text(report.mean), 100 * report.same_top.value);
  histogram.subtitle = fmt::format("{} against {} · {} tokens", flags.model.options.path, flags.base, report.n_tokens);
  histogram.x_label = "KL divergence from the base at a token, nats";
  histogram.values = kld;
  histogram.log_x = true;
  histogram.least = 1e-9;
  for (const eval::Percentile& p : report.percentiles) {
    histogram.marks.push_back({p.kld.value, fmt::format("{:.0f} %", p.percent)});
  }
  return cli::write_file(flags.output.svg_path, draw_histogram(histogram));
}

nlohmann::ordered_json report_json(const eval::KldReport& report) {
  nlohmann::ordered_json kld = {{"mean", to_json(report.mean)}};
  for (const eval::Percentile& p : report.percentiles) kld[fmt::format("p{:.0f}", p.percent)] = to_json(p.kld);
  kld["max"] = report.max;
  return {{"n_tokens", report.n_tokens},
          {"kld", std::move(kld)},
          {"same_top", to_json(report.same_top)},
          {"perplexity", to_json(report.perplexity)},
          {"base_perplexity", to_json(report.base_perplexity)},
          {"perplexity_ratio", to_json(report.perplexity_ratio)},
          {"log_perplexity_ratio", to_json(report.log_perplexity_ratio)},
          {"perplexity_delta", to_json(report.perplexity_delta)}};
}

std::string report_text(const eval::KldReport& report, const eval::Windows& windows) {
  std::string text;
  const auto line = [&](const std::string& name, const std::string& value) {
    text += fmt::format("{:<20}{}\n", name, value);
  };
  line("KLD mean", to_text(report.mean) + " nats");
  for (const eval::Percentile& p : report.percentiles) {
    line(p.percent == 50 ? std::string("KLD median") : fmt::format("KLD {:.0f} %", p.percent), to_text(p.kld));
  }
  line("KLD max", fmt::format("{:.4g}", report.max));
  line("same top token", to_text({100 * report.same_top.value, 100 * report.same_top.standard_error}) + " %");
  line("perplexity", to_text(report.perplexity));
  line("base's perplexity", to_text(report.base_perplexity));
  line("difference", to_text(report.perplexity_delta));
  line("ratio", to_text(report.perplexity_ratio));
  return text + to_text(windows);
}

nlohmann::ordered_json comparison_json(const eval::Comparison& comparison, const std::string& against) {
  return {{"state", against},
          {"kld_difference", to_json(comparison.kld)},
          {"relative_kld_difference", to_json(comparison.relative_kld)},
          {"same_top_difference", to_json(comparison.same_top)},
          {"n_windows_less", comparison.n_windows_less}};
}

std::string comparison_text(const eval::Comparison& comparison, const std::string& against,
                            const eval::Windows& windows) {
  const auto percent = [](const eval::Estimate& e) { return to_text({100 * e.value, 100 * e.standard_error}) + " %"; };
  return fmt::format("against {}: KLD {} nats, {} of its mean, less in {} of {} windows; same top token {}\n", against,
                     to_text(comparison.kld), percent(comparison.relative_kld), comparison.n_windows_less,
                     windows.n_windows(), percent(comparison.same_top));
}

int run(const KldFlags& flags, cli::Terminal& terminal) {
  const auto model = flags.model.open();
  if (!model) return cli::report(model.error());
  const bool is_file = std::filesystem::is_regular_file(flags.base);
  const auto base = is_file ? open_file(flags, **model) : open_model(flags, **model);
  if (!base) return cli::report(base.error());
  const eval::Windows& windows = *base->windows;
  const auto rows = eval::ModelRows::create(*model, windows, flags.machine.run_options());
  if (!rows) return cli::report(rows.error());

  Progress progress("windows", windows.n_windows(), flags.output.quiet);
  eval::ScoreOptions options;
  options.run = flags.machine.run_options();
  options.state_path = flags.output.state_path;
  options.key.tokens = eval::key_of({2, base->fingerprint, windows.fingerprint()});
  options.key.run =
      eval::key_of({options.key.tokens, (*model)->info().fingerprint, static_cast<std::uint64_t>(options.run.kv_type)});
  std::vector<eval::TokenScore> other;
  if (!flags.against.empty()) {
    auto read = eval::read_scores(flags.against, options.key.tokens, windows);
    if (!read) return cli::report(read.error());
    other = *std::move(read);
  }
  options.on_resume = [&](std::uint32_t n_done) { progress.start_from(n_done); };
  options.on_window = [&](std::uint32_t n_done, auto scores) {
    progress.show(n_done, "KLD " + to_text(eval::kld_report(scores).mean));
    return true;
  };
  const auto scores = eval::score_windows(**rows, base->rows.get(), windows, options);
  if (!scores) return cli::report(scores.error());
  const eval::KldReport report = eval::kld_report(*scores);
  std::optional<eval::Comparison> comparison;
  if (!other.empty()) comparison = eval::compare(*scores, other, windows.rows);
  if (!flags.output.svg_path.empty()) {
    if (const auto drawn = draw(flags, report, *scores); !drawn) return cli::report(drawn.error());
  }
  if (flags.output.json) {
    nlohmann::ordered_json json = {
        {"model", flags.model.options.path}, {"base", flags.base}, {"text", flags.text.path}};
    json.update(to_json(windows));
    json.update(report_json(report));
    if (comparison) json["against"] = comparison_json(*comparison, flags.against);
    terminal.write(cli::to_line(json));
  } else {
    terminal.write(report_text(report, windows));
    if (comparison) terminal.write(comparison_text(*comparison, flags.against, windows));
  }
  return cli::exit_done;
}

}  // namespace

Command add_kld(CLI::App& app) {
  const auto flags = std::make_shared<KldFlags>();
  flags->model.add_to(app, false);
  app.add_option("--base", flags->base, "What to compare with: a model directory, or a file of r1-eval logits")
      ->required()
      ->type_name("BASE");
  flags->text.add_to(app)->description("The text, UTF-8; - for standard input [the tokens in a file BASE]");
  flags->machine.add_to(app, flags->model);
  flags->output.add_to(app, true);
  app.add_option("--against", flags->against,
                 "Compare with another model's run too, token by token: its --state, of the same BASE and text")
      ->type_name("FILE");
  return [flags](cli::Terminal& terminal) { return run(*flags, terminal); };
}

}  // namespace r1::eval_cli
