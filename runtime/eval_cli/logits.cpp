// r1-eval logits: a base's predictions, in a file.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "runtime/eval/base_logits.h"
#include "runtime/eval_cli/commands.h"
#include "runtime/eval_cli/flags.h"
#include "runtime/eval_cli/progress.h"

namespace r1::eval_cli {
namespace {

struct LogitsFlags {
  cli::ModelFlags model;
  MachineFlags machine;
  TextFlags text;
  std::string out;
  bool json = false, quiet = false;
};

Result<void> write_windows(eval::RowSource& rows, eval::BaseLogitsWriter& writer, const eval::Windows& windows,
                           Progress& progress) {
  for (std::uint32_t w = writer.n_windows_done(); w < windows.n_windows(); ++w) {
    for (std::uint32_t first = 0; first < windows.n_scored(w); first += eval::max_rows) {
      const auto step = rows.rows(w, first, std::min(eval::max_rows, windows.n_scored(w) - first));
      if (!step) return step.error();
      if (const auto written = writer.append(*step); !written) return written.error();
    }
    if (const auto ended = writer.end_window(); !ended) return ended.error();
    progress.show(w + 1, "");
  }
  return writer.finish();
}

int run(const LogitsFlags& flags, cli::Terminal& terminal) {
  const auto model = flags.model.open();
  if (!model) return cli::report(model.error());
  const auto windows = flags.text.windows(**model, flags.quiet);
  if (!windows) return cli::report(windows.error());
  const eval::RunOptions options = flags.machine.run_options();
  const auto rows = eval::ModelRows::create(*model, *windows, options);
  if (!rows) return cli::report(rows.error());
  const auto writer = eval::BaseLogitsWriter::create(flags.out, **model, *windows, options);
  if (!writer) return cli::report(writer.error());
  {
    Progress progress("windows", windows->n_windows(), flags.quiet);
    progress.start_from((*writer)->n_windows_done());
    if (const auto done = write_windows(**rows, **writer, *windows, progress); !done) return cli::report(done.error());
  }
  const std::uint64_t n_tokens = windows->n_scored_tokens();
  std::error_code ignored;
  const std::uint64_t n_bytes = std::filesystem::file_size(flags.out, ignored);
  if (flags.json) {
    nlohmann::ordered_json json = {{"model", flags.model.options.path}, {"text", flags.text.path}, {"out", flags.out}};
    json.update(to_json(*windows));
    json["n_tokens"] = n_tokens;
    json["n_bytes"] = n_bytes;
    terminal.write(cli::to_line(json));
  } else {
    terminal.write(
        fmt::format("{}: {} rows in {}, {:.2f} bits a logit\n", flags.out, n_tokens, cli::human_bytes(n_bytes),
                    8 * static_cast<double>(n_bytes) / (static_cast<double>(n_tokens) * (*model)->info().vocab_size)));
  }
  return cli::exit_done;
}

}  // namespace

Command add_logits(CLI::App& app) {
  const auto flags = std::make_shared<LogitsFlags>();
  flags->model.add_to(app, false);
  flags->text.add_to(app)->required();
  app.add_option("--out", flags->out, "Where to; FILE.partial while it grows, from which the same command goes on")
      ->required()
      ->type_name("FILE");
  flags->machine.add_to(app, flags->model);
  app.add_flag("--json", flags->json, "Print one JSON object");
  app.add_flag("-q,--quiet", flags->quiet, "No progress on standard error");
  return [flags](cli::Terminal& terminal) { return run(*flags, terminal); };
}

}  // namespace r1::eval_cli
