// r1-quantize: checkpoint → model directory; --plan, verify, synth, recipes.
#include <fmt/format.h>
#include <omp.h>
#include <signal.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "convert/cli/command.h"
#include "convert/cli/imatrix.h"
#include "convert/cli/mix_choice.h"
#include "convert/cli/plan_report.h"
#include "convert/cli/plan_time.h"
#include "convert/cli/sensitivity.h"
#include "convert/pipeline.h"
#include "convert/progress_line.h"
#include "convert/recipe_file.h"
#include "convert/synth.h"
#include "runtime/base/bytes.h"
#include "runtime/base/try.h"
#include "runtime/io/file.h"
#include "runtime/model_file/imatrix.h"
#include "runtime/model_file/model_file.h"

namespace {

using namespace r1;
using r1::convert::ConversionPlan;

std::atomic<bool> stop_requested = false;

void request_stop(int) {
  stop_requested = true;
}

struct Options {
  std::string source, out, imatrix, recipe_out, ram = "8GiB", effort_name = "normal";
  quant::Effort effort = quant::Effort::normal;
  convert::MixFlags mix;
  int n_threads = 0;
  bool plan_only = false, json = false, strict = false, no_feedback = false;

  [[nodiscard]] int threads() const { return n_threads > 0 ? n_threads : omp_get_num_procs(); }
};

// Where the user wants the mix as a file.
Result<void> write_recipe(const Options& options, const convert::Mix& mix) {
  if (options.recipe_out.empty()) return {};
  const std::string text = convert::recipe_text(mix);
  return rt::write_file_atomically(options.recipe_out, std::as_bytes(std::span(text)));
}

Result<rt::Imatrix> load_imatrix(const Options& options) {
  return rt::Imatrix::load(options.imatrix, options.no_feedback ? rt::MomentsOf::none : rt::MomentsOf::file);
}

// --plan: from config.json alone, and the importance matrix that shall be used.
Result<void> show_plan(const Options& options) {
  const bool is_directory = std::filesystem::is_directory(options.source);
  const std::string path = is_directory ? options.source + "/config.json" : options.source;
  R1_TRY(const std::string text, rt::read_text_file(path, 16 << 20));
  R1_TRY(const rt::ModelConfig config, rt::parse_config(text, path));
  const convert::IsBf16 is_bf16 = convert::usual_bf16(config);
  R1_TRY(const convert::Mix mix, convert::choose_mix(options.mix, {config, is_bf16, nullptr}, options.json));
  R1_CHECK(write_recipe(options, mix));
  R1_TRY(ConversionPlan plan, convert::make_plan(config, mix, is_bf16, std::string(16, '0')));
  plan.effort = options.effort;
  rt::Imatrix imatrix;
  std::optional<rt::Importance> importance;
  if (!options.imatrix.empty()) {
    R1_TRY(imatrix, load_imatrix(options));
    // Whose it is, weights tell, not config.json: the conversion looks.
    R1_TRY(importance, rt::Importance::of(imatrix, config, imatrix.identity, options.imatrix));
  }
  const convert::PlanTime time = convert::estimated_time(plan, importance ? &*importance : nullptr, options.threads());
  if (options.json) {
    nlohmann::ordered_json json = convert::plan_json(plan, options.threads());
    json["estimated_seconds"] = time.seconds;
    json["feedback_inputs"] = time.n_feedback_inputs;
    fmt::print("{}\n", json.dump(2));
    return {};
  }
  convert::print_plan(config, plan, time, options.threads());
  return {};
}

Result<void> run_conversion(const Options& options, std::uint64_t ram_bytes) {
  R1_TRY(const convert::Checkpoint checkpoint, convert::Checkpoint::open(options.source));
  R1_TRY(const convert::Mix mix, convert::choose_mix(options.mix,
                                                     {checkpoint.config(), convert::stored_bf16(checkpoint),
                                                      [&] { return convert::identity_of(checkpoint); }},
                                                     options.json));
  R1_CHECK(write_recipe(options, mix));
  rt::Imatrix imatrix;
  if (!options.imatrix.empty()) {
    R1_TRY(imatrix, load_imatrix(options));
    const rt::ExpertCoverage coverage = rt::expert_coverage(checkpoint.config(), imatrix);
    if (coverage.n_few > 0) {
      fmt::print(stderr, "{}: {} of {} experts saw fewer than {} tokens ({} none): blended with their layer's mean\n",
                 options.imatrix, coverage.n_few, coverage.n_experts, rt::enough_expert_tokens, coverage.n_none);
    }
  }
  const rt::Imatrix* const used_imatrix = options.imatrix.empty() ? nullptr : &imatrix;
  R1_TRY(const ConversionPlan plan, convert::plan_conversion(checkpoint, mix, used_imatrix, options.effort));

  convert::ProgressLine line;
  convert::ConvertOptions convert_options;
  convert_options.n_threads = options.n_threads;
  convert_options.ram_bytes = ram_bytes;
  convert_options.on_progress = [&](const convert::Progress& progress) { line.show(progress); };
  convert_options.imatrix = used_imatrix;
  convert_options.imatrix_path = options.imatrix;
  convert_options.strict = options.strict;
  convert_options.stop = &stop_requested;
  const auto start = std::chrono::steady_clock::now();
  const auto report = convert::convert(checkpoint, plan, options.out, convert_options);
  line.finish();
  if (!report) return report.error();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  for (const convert::TensorError& tensor : report->tensors) {
    if (!tensor.is_suspicious) continue;
    fmt::print(stderr, "{}: relative error {:.4f} at {}, more than twice what it costs on ordinary weights\n",
               tensor.name, tensor.error, quant::info(tensor.format).name);
  }

  for (const std::string& input : report->unused_moments) {
    fmt::print(stderr, "{}: the moments of {} tell nothing: what reads it was searched by its importance alone\n",
               options.imatrix, input);
  }

  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const double peak_gb = static_cast<double>(usage.ru_maxrss) * 1024 / 1e9;
  if (options.json) {
    nlohmann::ordered_json json = convert::plan_json(plan, options.threads());
    json["seconds"] = seconds;
    json["peak_rss_bytes"] = static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
    json["shards_written"] = report->n_shards_written;
    json["shards_kept"] = report->n_shards_kept;
    for (const convert::TensorError& tensor : report->tensors) {
      json["tensors"].push_back(
          {{"name", tensor.name}, {"format", quant::info(tensor.format).name}, {"error", tensor.error}});
    }
    fmt::print("{}\n", json.dump(2));
    return {};
  }
  convert::print_classes(plan, report->error_by_class);
  if (report->n_shards_kept > 0) fmt::print("{} finished shards were kept\n", report->n_shards_kept);
  fmt::print("{}: recipe {}, {:.3f} GB, in {} ({:.1f} MB/s of source), peak memory {:.2f} GB\n", options.out, mix.name,
             convert::gigabytes(plan.file_bytes), convert::duration_text(seconds),
             static_cast<double>(report->source_bytes) / 1e6 / std::max(seconds, 1e-9), peak_gb);
  return {};
}

Result<void> verify(const std::string& directory, int n_threads, bool json) {
  R1_TRY(const auto model, rt::ModelFile::open(directory));
  const auto blobs = model->blobs();
  std::vector<std::string> failures(blobs.size());
  std::atomic<std::uint64_t> bytes = 0;
  const auto n = static_cast<std::int64_t>(blobs.size());
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
  for (std::int64_t i = 0; i < n; ++i) {
    if (stop_requested) continue;
    const rt::BlobInfo& blob = blobs[static_cast<std::size_t>(i)];
    const auto result = model->verify(blob);
    if (!result) failures[static_cast<std::size_t>(i)] = result.error().text();
    bytes += blob.length_bytes;
  }
  if (stop_requested) return Error{ErrorCode::cancelled, "stopped before the end", directory};
  std::erase(failures, "");
  if (json) {
    fmt::print(
        "{}\n",
        nlohmann::ordered_json{{"tensors", blobs.size()}, {"bytes", bytes.load()}, {"failures", failures}}.dump(2));
  }
  for (std::size_t i = 0; i + 1 < failures.size(); ++i) fmt::print(stderr, "r1-quantize: {}\n", failures[i]);
  if (!failures.empty()) return Error{ErrorCode::corrupt, failures.back(), ""};
  if (!json)
    fmt::print("{}: {} tensors, {:.3f} GB, all checksums agree\n", directory, blobs.size(), convert::gigabytes(bytes));
  return {};
}

void list_recipes() {
  for (const auto& recipe : quant::recipes()) fmt::print("{:<6} {}\n", recipe.name, recipe.summary);
}

int main_convert(int argc, char** argv) {
  Options options;
  CLI::App app{
      "Converts a Hugging Face checkpoint (FP8, BF16, F16, F32 safetensors) to an r1rt model directory.\n"
      "Interrupted, it goes on where it was when the same command is given again.\n\n"
      "  r1-quantize CHECKPOINT OUT [--recipe NAME|FILE.json]   convert\n"
      "  r1-quantize CHECKPOINT OUT --fit SIZE --sensitivity FILE.json   convert to the best mix of that size\n"
      "  r1-quantize --plan CHECKPOINT|config.json    show sizes and time, write nothing\n"
      "  r1-quantize verify MODEL                     re-check every checksum\n"
      "  r1-quantize synth --config CONFIG --layers N OUT   random weights of a config's shapes\n"
      "  r1-quantize imatrix MODEL OUT --text FILE    measure which weights matter, for --imatrix\n"
      "  r1-quantize sensitivity MODEL OUT.json --text FILE   measure which parts matter, for --fit\n"
      "  r1-quantize recipes                          list the recipes",
      "r1-quantize"};
  app.add_option("checkpoint", options.source, "Checkpoint directory (with --plan, a config.json will do)")->required();
  app.add_option("out", options.out, "Output directory");
  options.mix.add_to(app);
  options.mix.add_fit_to(app);
  app.add_option("--imatrix", options.imatrix, "Weigh errors by this file of r1-quantize imatrix");
  app.add_flag("--no-feedback", options.no_feedback,
               "Leave aside the moments that the file has: no block makes up for the errors of those before it");
  app.add_option("--effort", options.effort_name, "How long to search for the best codes: fast, normal or best")
      ->capture_default_str();
  convert::add_threads(app, options.n_threads);
  app.add_option("--ram", options.ram, "Memory limit, e.g. 8GiB or 512MiB")->capture_default_str();
  app.add_flag("--plan", options.plan_only, "Show what would be written, and stop");
  app.add_option("--write-recipe", options.recipe_out, "Write the mix as a recipe file too")->type_name("FILE.json");
  app.add_flag("--strict", options.strict, "Fail where a tensor's error is far above what its format costs");
  app.add_flag("--json", options.json, "Print the summary as JSON");
  if (const auto code = convert::parse_command_line(app, argc, argv)) return *code;
  if (const std::string problem = options.mix.problem(); !problem.empty()) return convert::wrong_usage(app, problem);
  const auto effort = quant::effort_from_name(options.effort_name);
  if (!effort) {
    return convert::wrong_usage(
        app, fmt::format("--effort: {} is unknown; it is fast, normal or best", options.effort_name));
  }
  options.effort = *effort;
  const auto ram_bytes = rt::parse_bytes(options.ram);
  if (!ram_bytes) return convert::wrong_usage(app, fmt::format("--ram: {} is not a size like 8GiB", options.ram));
  if (!options.plan_only && options.out.empty()) return convert::wrong_usage(app, "the output directory is missing");
  return convert::exit_code(options.plan_only ? show_plan(options) : run_conversion(options, *ram_bytes));
}

struct SynthFlags {
  std::string config, out;
  convert::MixFlags mix;
  convert::SynthShape shape;
  convert::SynthRouter router = convert::SynthRouter::uniform;
  std::uint64_t seed = 0;
  int n_threads = 0;
  bool json = false;
};

Result<void> synthesize(const SynthFlags& flags) {
  const bool is_directory = std::filesystem::is_directory(flags.config);
  const std::string path = is_directory ? flags.config + "/config.json" : flags.config;
  R1_TRY(const std::string text, rt::read_text_file(path, 16 << 20));
  R1_TRY(convert::SynthModel model, convert::shape_synthetic(text, path, flags.shape));
  model.router = flags.router;
  model.seed = flags.seed;
  R1_TRY(const convert::Mix mix,
         convert::choose_mix(flags.mix, {model.config, convert::usual_bf16(model.config), nullptr}));
  R1_TRY(const ConversionPlan plan, convert::plan_synthetic(model, mix));

  convert::ProgressLine line;
  convert::SynthOptions synth_options;
  synth_options.n_threads = flags.n_threads;
  synth_options.on_progress = [&](const convert::Progress& progress) { line.show(progress); };
  synth_options.stop = &stop_requested;
  const auto start = std::chrono::steady_clock::now();
  const auto written = convert::write_synthetic(model, plan, flags.out, synth_options);
  line.finish();
  if (!written) return written.error();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (flags.json) {
    nlohmann::ordered_json json = convert::plan_json(plan, flags.n_threads > 0 ? flags.n_threads : omp_get_num_procs());
    json["seconds"] = seconds;
    json["written_bytes"] = *written;
    fmt::print("{}\n", json.dump(2));
    return {};
  }
  convert::print_classes(plan, {});
  fmt::print("{}: {} of random weights, recipe {}, {:.3f} GB, in {} ({:.0f} MB/s)\n", flags.out,
             rt::architecture_name(model.config.architecture), mix.name, convert::gigabytes(plan.file_bytes),
             convert::duration_text(seconds), static_cast<double>(*written) / 1e6 / std::max(seconds, 1e-9));
  return {};
}

int main_synth(int argc, char** argv) {
  SynthFlags flags;
  CLI::App app{
      "Makes a model directory of random weights with a config's shapes, for benchmarks and planning. It has no\n"
      "tokenizer: it runs on token ids alone.",
      "r1-quantize synth"};
  app.add_option("--config", flags.config, "A config.json, or a directory with one")->required();
  app.add_option("--layers", flags.shape.n_layers, "MoE layers (of a dense model: layers)")
      ->required()
      ->check(CLI::Range(1, 4096));
  app.add_option("--dense", flags.shape.n_dense, "Dense layers before them; the default is first_k_dense_replace")
      ->check(CLI::Range(0, 4096).description(""));
  app.add_option("--experts", flags.shape.n_experts, "Experts of a layer; the default is n_routed_experts")
      ->check(CLI::Range(1, 16384));
  flags.mix.add_to(app);
  app.add_option_function<std::string>(
         "--router",
         [&](const std::string& name) {
           flags.router = name == "zipf" ? convert::SynthRouter::zipf : convert::SynthRouter::uniform;
         },
         "uniform: experts equally popular; zipf: a few are chosen much more often [uniform]")
      ->type_name("uniform|zipf")
      ->check(CLI::IsMember({"uniform", "zipf"}).description(""));
  app.add_option("--seed", flags.seed, "Other weights for another number")->capture_default_str();
  convert::add_threads(app, flags.n_threads);
  app.add_flag("--json", flags.json, "Print the summary as JSON");
  app.add_option("out", flags.out, "Output directory")->required();
  if (const auto code = convert::parse_command_line(app, argc, argv)) return *code;
  if (const std::string problem = flags.mix.problem(); !problem.empty()) return convert::wrong_usage(app, problem);
  return convert::exit_code(synthesize(flags));
}

int main_verify(int argc, char** argv) {
  std::string directory;
  int n_threads = 0;
  bool json = false;
  CLI::App app{"Re-checks every checksum of a model directory.", "r1-quantize verify"};
  app.add_option("model", directory, "Model directory")->required();
  convert::add_threads(app, n_threads);
  app.add_flag("--json", json, "Print the result as JSON");
  if (const auto code = convert::parse_command_line(app, argc, argv)) return *code;
  return convert::exit_code(verify(directory, n_threads > 0 ? n_threads : omp_get_num_procs(), json));
}

}  // namespace

int main(int argc, char** argv) {
  struct sigaction action {};
  action.sa_handler = request_stop;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  const std::string_view command = argc > 1 ? argv[1] : "";
  if (command == "verify") return main_verify(argc - 1, argv + 1);
  if (command == "imatrix") return convert::main_imatrix(argc - 1, argv + 1, &stop_requested);
  if (command == "sensitivity") return convert::main_sensitivity(argc - 1, argv + 1, &stop_requested);
  if (command == "synth") return main_synth(argc - 1, argv + 1);
  if (command == "recipes" && argc == 2) {
    list_recipes();
    return 0;
  }
  return main_convert(argc, argv);
}
