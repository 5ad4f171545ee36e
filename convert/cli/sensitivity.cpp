#include "convert/cli/sensitivity.h"

#include <fmt/format.h>
#include <r1/model.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <vector>

#include "convert/cli/command.h"
#include "convert/cli/text_flags.h"
#include "convert/fit.h"
#include "runtime/base/try.h"
#include "runtime/eval/sensitivity_probe.h"

namespace r1::convert {
namespace {

struct Flags {
  std::string model, out, imatrix;
  TextFlags text;
  std::vector<std::string> formats = {"t2", "t4"};
  int layers_per_group = 1, n_threads = 0;
  bool no_feedback = false;
};

// Empty if one of the names is no format that matrices can be lowered to.
std::vector<quant::Format> parse_formats(const std::vector<std::string>& names) {
  std::vector<quant::Format> formats;
  for (const std::string& name : names) {
    const auto format = quant::format_from_name(name);
    if (!format || !quant::info(*format).is_packed()) return {};
    if (std::find(formats.begin(), formats.end(), *format) == formats.end()) formats.push_back(*format);
  }
  return formats;
}

// The classes, the most sensitive first: what lowering all of their layers costs above the floor, if costs add up.
void print_classes(const rt::Sensitivity& sensitivity) {
  struct Line {
    quant::TensorClass tensor_class;
    std::vector<double> kld;  // by measured format
  };
  std::vector<Line> lines;
  for (const rt::SensitivityItem& item : sensitivity.items) {
    if (lines.empty() || lines.back().tensor_class != item.tensor_class)
      lines.push_back({item.tensor_class, std::vector<double>(item.measured.size())});
    for (std::size_t i = 0; i < item.measured.size(); ++i) {
      lines.back().kld[i] += std::max(item.measured[i].kld - item.floor.value_or(0), 0.0);
    }
  }
  std::stable_sort(lines.begin(), lines.end(), [](const Line& a, const Line& b) { return a.kld[0] > b.kld[0]; });
  fmt::print("{:<16}", "KLD, all layers");
  for (const rt::Lowered& m : sensitivity.items[0].measured) fmt::print(" {:>10}", quant::info(m.format).name);
  fmt::print("\n");
  for (const Line& line : lines) {
    fmt::print("{:<16}", quant::class_name(line.tensor_class));
    for (const double kld : line.kld) fmt::print(" {:>10.3g}", kld);
    fmt::print("\n");
  }
}

Result<void> measure(const Flags& flags, const std::atomic<bool>* stop) {
  ModelOptions model_options;
  model_options.path = flags.model;
  R1_TRY(const auto model, Model::open(model_options));
  R1_TRY(const eval::Windows windows, flags.text.windows(*model));
  eval::ProbeOptions options;
  options.n_threads = flags.n_threads;
  options.formats = parse_formats(flags.formats);
  options.layers_per_group = flags.layers_per_group;
  rt::Imatrix imatrix;
  if (!flags.imatrix.empty()) {
    R1_TRY(imatrix, rt::Imatrix::load(flags.imatrix, flags.no_feedback ? rt::MomentsOf::none : rt::MomentsOf::file));
    options.imatrix = &imatrix;
    options.imatrix_path = flags.imatrix;
  }
  options.state_path = flags.out + ".state";
  options.stop = stop;
  CountLine line;
  options.on_progress = [&](std::size_t n_done, std::size_t n_all) { line.show(n_done, n_all, "measurements"); };
  R1_TRY(const rt::Sensitivity sensitivity, eval::probe_sensitivity(model, windows, options));
  R1_CHECK(sensitivity.save(flags.out));
  eval::remove_probe_state(options.state_path);
  print_classes(sensitivity);
  fmt::print("above {:.3g}, what roundings alone make of any change\n", floor_of(sensitivity));
  fmt::print("{}: {} parts, {} tokens scored\n", flags.out, sensitivity.items.size(), sensitivity.n_scored_tokens);
  return {};
}

}  // namespace

int main_sensitivity(int argc, char** argv, const std::atomic<bool>* stop) {
  Flags flags;
  CLI::App app{
      "Measures how far a model's predictions go astray (KL divergence) when one class of matrices in one layer,\n"
      "or some neighbouring ones, is lowered to a few bits, for r1-quantize --fit. Each measurement runs the whole\n"
      "text: a few thousand tokens do, of a text that the imatrix has not seen. Interrupted, it goes on when the same\n"
      "command is given again.\n\n"
      "  r1-quantize sensitivity MODEL OUT.json --text FILE",
      "r1-quantize sensitivity"};
  app.add_option("model", flags.model, "Model directory: the best of it that fits this machine")->required();
  app.add_option("out", flags.out, "File to write")->required();
  flags.text.add_to(app);
  app.add_option("--formats", flags.formats, "What to lower to; others are predicted from the error of the weights")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--layers-per-group", flags.layers_per_group, "Lower so many neighbouring layers at once: less to run")
      ->capture_default_str()
      ->check(CLI::Range(1, 4096));
  app.add_option("--imatrix", flags.imatrix,
                 "Weigh errors by this file of r1-quantize imatrix, as the conversion will");
  app.add_flag("--no-feedback", flags.no_feedback, "Leave the file's second moments aside, where the conversion will");
  add_threads(app, flags.n_threads);
  if (const auto code = parse_command_line(app, argc, argv)) return *code;
  if (parse_formats(flags.formats).empty()) {
    std::string names;
    for (const quant::Format format : quant::all_formats) {
      if (quant::info(format).is_packed()) names += fmt::format(" {}", quant::info(format).name);
    }
    return wrong_usage(app, "--formats: there are" + names);
  }
  return exit_code(measure(flags, stop));
}

}  // namespace r1::convert
