// r1 tune: what runs a model fastest on this machine, measured and remembered.
#include <fmt/format.h>
#include <r1/tune.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>

#include "runtime/cli/commands.h"
#include "runtime/cli/options.h"

namespace r1::cli {
namespace {

using nlohmann::ordered_json;

struct TuneFlags {
  TuneOptions options;
  bool dry_run = false, json = false;
};

const char* load_name(LoadMode mode) {
  return mode == LoadMode::map ? "map" : "read";
}

ordered_json to_json(const TuneReport& report, const std::string& file) {
  ordered_json measurements = ordered_json::array();
  for (const TuneMeasurement& m : report.measurements) {
    measurements.push_back({{"phase", m.phase},
                            {"load", load_name(m.load)},
                            {"threads", m.n_threads},
                            {"tokens_per_second", m.tokens_per_s},
                            {"lowest", m.lowest},
                            {"highest", m.highest},
                            {"default", m.is_default},
                            {"best", m.is_best}});
  }
  return {{"measurements", std::move(measurements)},
          {"note", report.load_note},
          {"best",
           {{"decode_threads", report.best.decode_threads},
            {"prefill_threads", report.best.prefill_threads},
            {"load", load_name(report.best.load)}}},
          {"file", file}};
}

std::string threads_text(int n_threads) {
  return n_threads == 0 ? "one per core" : std::to_string(n_threads);
}

std::string to_text(const TuneReport& report, const std::string& file) {
  std::string text = fmt::format("{:<9} {:<5} {:>7} {:>10}  {}\n", "phase", "load", "threads", "tok/s", "spread");
  for (const TuneMeasurement& m : report.measurements) {
    text +=
        fmt::format("{:<9} {:<5} {:>7} {:>10.2f}  {:.2f} - {:.2f}{}{}\n", m.phase, load_name(m.load), m.n_threads,
                    m.tokens_per_s, m.lowest, m.highest, m.is_default ? "  default" : "", m.is_best ? "  best" : "");
  }
  if (!report.load_note.empty()) text += fmt::format("not measured: {}\n", report.load_note);
  text += fmt::format("\ndecode threads {}, prefill threads {}, load {}\n", threads_text(report.best.decode_threads),
                      threads_text(report.best.prefill_threads), load_name(report.best.load));
  text += file.empty() ? "not stored\n" : fmt::format("stored in {}: r1 run and r1 chat use it\n", file);
  return text;
}

int tune_model(const TuneFlags& flags, Environment& environment) {
  std::string file;
  if (!flags.dry_run) {  // what would keep the result from being stored is told before minutes of measuring
    const auto found = tuning_file();
    if (!found) return report(found.error());
    const auto before = find_tuning(*found, flags.options.model_path);
    if (!before) return report(before.error());
    file = *found;
  }
  const bool terminal = ::isatty(STDERR_FILENO) == 1;
  TuneOptions options = flags.options;
  if (terminal) {
    options.on_round = [](int round, int n_rounds) {
      fmt::print(stderr, "\r\x1b[Kmeasuring, round {} of {}", round, n_rounds);
      std::fflush(stderr);
    };
  }
  const auto result = tune(options);
  if (terminal) fmt::print(stderr, "\r\x1b[K");
  if (!result) return report(result.error());
  if (!flags.dry_run) {
    if (const auto stored = store_tuning(file, flags.options.model_path, result->best); !stored) {
      return report(stored.error());
    }
  }
  if (flags.json) {
    environment.terminal.write(to_line(to_json(*result, file)));
  } else {
    environment.terminal.write_foreign(to_text(*result, file));
  }
  return exit_done;
}

}  // namespace

Command add_tune(CLI::App& app) {
  const auto flags = std::make_shared<TuneFlags>();
  app.add_option("MODEL", flags->options.model_path, "Model directory that r1-quantize wrote")
      ->required()
      ->type_name("");
  add_isa_option(app, flags->options.isa);
  app.add_flag("--dry-run", flags->dry_run, "Measure and tell, but store nothing");
  app.add_flag("--json", flags->json, "As one JSON object");
  return [flags](Environment& environment) { return tune_model(*flags, environment); };
}

}  // namespace r1::cli
