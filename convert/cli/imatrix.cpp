#include "convert/cli/imatrix.h"

#include <fmt/format.h>
#include <r1/model.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "convert/cli/command.h"
#include "convert/cli/text_flags.h"
#include "runtime/base/try.h"
#include "runtime/eval/imatrix_collector.h"

namespace r1::convert {
namespace {

std::string coverage_text(const rt::ExpertCoverage& c) {
  if (c.n_experts == 0) return {};
  if (c.n_few == 0) return fmt::format("; all {} experts saw {} tokens or more", c.n_experts, rt::enough_expert_tokens);
  return fmt::format("; {} of {} experts saw fewer than {} tokens ({} none): they are blended with their layer's mean",
                     c.n_few, c.n_experts, rt::enough_expert_tokens, c.n_none);
}

struct Flags {
  std::string model, out;
  TextFlags text;
  int n_threads = 0;
  bool json = false, moments = false;
  std::uint32_t moments_width = 8192;
  std::string moments_layers;

  // What is wrong with the flags of moments; "" if nothing is.
  [[nodiscard]] std::string read_moments(rt::MomentsWanted& wanted) const;
};

std::string Flags::read_moments(rt::MomentsWanted& wanted) const {
  if (moments_layers.empty()) {
    wanted.max_k = moments ? moments_width : 0;
    return {};
  }
  int first = 0, last = 0, n_read = 0;
  if (std::sscanf(moments_layers.c_str(), "%9d-%9d%n", &first, &last, &n_read) != 2)
    last = std::sscanf(moments_layers.c_str(), "%9d%n", &first, &n_read) == 1 ? first : -1;
  if (static_cast<std::size_t>(n_read) != moments_layers.size() || first < 0 || last < first)
    return fmt::format("--moments-layers: {} is no range of layers like 0-29", moments_layers);
  wanted = {moments_width, first, last + 1};
  return {};
}

// What moments will take, before they do.
void announce(const rt::ModelConfig& config, const rt::MomentsWanted& wanted) {
  if (wanted.max_k == 0) return;
  std::size_t n = 0;
  for (const rt::MatrixInput& input : rt::matrix_inputs(config)) n += wanted.wants(input);
  fmt::print(stderr, "moments of {} inputs of up to {} columns take {:.2f} GB of memory and of the file\n", n,
             wanted.max_k, static_cast<double>(wanted.bytes(config)) / 1e9);
}

Result<void> collect(const Flags& flags, const rt::MomentsWanted& moments, const std::atomic<bool>* stop) {
  ModelOptions model_options;
  model_options.path = flags.model;
  R1_TRY(const auto model, Model::open(model_options));
  R1_TRY(const eval::Windows windows, flags.text.windows(*model));
  eval::CollectOptions options;
  options.n_threads = flags.n_threads;
  options.moments = moments;
  announce(eval::config_of(*model), moments);
  options.state_path = flags.out + ".state";
  options.stop = stop;
  CountLine line;
  options.on_progress = [&](std::uint64_t n_done, std::uint64_t n_windows) {
    line.show(n_done, n_windows,
              fmt::format("windows of {}{} tokens", flags.text.documents ? "up to " : "", windows.longest()));
  };
  R1_TRY(const rt::Imatrix imatrix, eval::collect_imatrix(model, windows, options));
  R1_CHECK(imatrix.save(flags.out));
  std::error_code ec;
  std::filesystem::remove(options.state_path, ec);

  const rt::ExpertCoverage coverage = eval::expert_coverage_of(*model, imatrix);
  if (flags.json) {
    fmt::print("{}\n", nlohmann::ordered_json{{"tokens", imatrix.n_tokens},
                                              {"experts", coverage.n_experts},
                                              {"experts_few", coverage.n_few},
                                              {"experts_none", coverage.n_none},
                                              {"fingerprint", imatrix.fingerprint()}}
                           .dump(2));
    return {};
  }
  fmt::print("{}: {} tokens{}\n", flags.out, imatrix.n_tokens, coverage_text(coverage));
  return {};
}

Result<void> merge(const std::vector<std::string>& inputs, const std::string& out) {
  R1_TRY(rt::Imatrix first, rt::Imatrix::load(inputs[0]));
  rt::Imatrix sum = first;
  for (rt::ImatrixInput& input : sum.inputs) {
    std::fill(input.squares.begin(), input.squares.end(), 0.0);
    std::fill(input.tokens.begin(), input.tokens.end(), 0u);
    input.moments = {};
  }
  sum.n_tokens = 0;
  sum.work.clear();
  for (const std::string& path : inputs) {
    R1_TRY(const rt::Imatrix imatrix, rt::Imatrix::load(path));
    R1_CHECK(sum.add(imatrix, path));
  }
  R1_CHECK(sum.save(out));
  fmt::print("{}: {} tokens of {} files\n", out, sum.n_tokens, inputs.size());
  return {};
}

int main_merge(int argc, char** argv) {
  std::string out;
  std::vector<std::string> inputs;
  CLI::App app{"Adds importance matrices of one model, made of different texts.", "r1-quantize imatrix merge"};
  app.add_option("out", out, "File to write")->required();
  app.add_option("in", inputs, "Files that r1-quantize imatrix wrote")->required()->expected(1, 1 << 20);
  if (const auto code = parse_command_line(app, argc, argv)) return *code;
  return exit_code(merge(inputs, out));
}

}  // namespace

int main_imatrix(int argc, char** argv, const std::atomic<bool>* stop) {
  if (argc > 1 && std::string_view(argv[1]) == "merge") return main_merge(argc - 1, argv + 1);
  Flags flags;
  CLI::App app{
      "Measures, on a text, how large the values are that each column of each matrix is multiplied with;\n"
      "r1-quantize --imatrix then spends its bits where they count. Interrupted, it goes on when the same\n"
      "command is given again. Its text should be like what the model is for, and no text it is judged by.\n\n"
      "  r1-quantize imatrix MODEL OUT --text FILE\n"
      "  r1-quantize imatrix merge OUT IN IN ...      add those of several texts",
      "r1-quantize imatrix"};
  app.add_option("model", flags.model, "Model directory: the best of it that fits this machine")->required();
  app.add_option("out", flags.out, "File to write")->required();
  flags.text.add_to(app);
  app.add_flag("--moments", flags.moments,
               "Collect second moments too: conversions then make up for a column's error in the columns behind it.\n"
               "An input of k columns takes 2 k^2 bytes, in memory and in the file");
  app.add_option("--moments-width", flags.moments_width, "Leave out the moments of inputs with more columns than this")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 17).description(""));
  app.add_option("--moments-layers", flags.moments_layers,
                 "Collect moments of these layers only; merge adds the files of several runs over the same text")
      ->type_name("A-B");
  add_threads(app, flags.n_threads);
  app.add_flag("--json", flags.json, "Print the summary as JSON");
  if (const auto code = parse_command_line(app, argc, argv)) return *code;
  rt::MomentsWanted moments;
  if (const std::string problem = flags.read_moments(moments); !problem.empty()) return wrong_usage(app, problem);
  return exit_code(collect(flags, moments, stop));
}

}  // namespace r1::convert
