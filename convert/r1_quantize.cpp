// r1-quantize: checkpoint → model directory; --plan, verify, synth, recipes.
#include <fmt/format.h>
#include <omp.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "convert/cli/imatrix.h"
#include "convert/pipeline.h"
#include "convert/progress_line.h"
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

int fail(const Error& error) {
  fmt::print(stderr, "r1-quantize: {}\n", error.text());
  return 1;
}

int wrong_usage(const std::string& problem) {
  fmt::print(stderr, "r1-quantize: {}; see r1-quantize --help\n", problem);
  return 2;
}

std::uint64_t memory_bytes() {
  return static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

double gigabytes(std::uint64_t bytes) {
  return static_cast<double>(bytes) / 1e9;
}

// Seconds per weight that one core takes to encode a format here and now, on random weights.
double encode_seconds_per_weight(quant::Format format) {
  constexpr std::uint32_t rows = 16, k = 2048;
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(std::size_t{rows} * k);
  for (float& v : x) v = normal(engine);
  const auto layout = quant::blob_layout(format, rows, k).value();
  std::vector<std::byte> panel(layout.panel_bytes);
  float row_scale[quant::panel_rows];
  const auto encoding = quant::prepare_encoding(format, layout, x, quant::max_sample_rows, {});
  const auto start = std::chrono::steady_clock::now();
  quant::encode_panel(encoding, 0, x.data(), {}, panel.data(), row_scale);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() /
         static_cast<double>(x.size());
}

double estimated_seconds(const ConversionPlan& plan, int n_threads) {
  std::map<quant::Format, double> weights;
  for (const auto& shard : plan.shards) {
    for (const auto& blob : shard.blobs) {
      for (const auto& part : blob.stored.parts)
        weights[part.format] += static_cast<double>(part.layout.rows) * part.layout.k;
    }
  }
  double seconds = 0;
  for (const auto& [format, n] : weights) seconds += n * encode_seconds_per_weight(format);
  return seconds / n_threads;
}

std::string duration_text(double seconds) {
  if (seconds < 90) return fmt::format("{:.0f} s", seconds);
  if (seconds < 5400) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

void print_class(const convert::ClassSummary& c, const std::string& error) {
  fmt::print("{:<18} {:>8} {:>12.3f} {:>10.3f} {:>9.3f} {:>9}  {}\n", c.name, c.n_matrices,
             static_cast<double>(c.parameters) / 1e9, gigabytes(c.bytes), gigabytes(c.read_bytes), error, c.formats);
}

void print_classes(const ConversionPlan& plan, const std::map<std::string, quant::EncodeError>& errors) {
  fmt::print("{:<18} {:>8} {:>12} {:>10} {:>9} {:>9}  {}\n", "tensors", "count", "10^9 weights", "GB", "read GB",
             errors.empty() ? "" : "error", "formats");
  for (const auto& c : plan.classes) {
    const auto found = errors.find(c.name);
    const bool known = found != errors.end() && found->second.signal > 0;
    print_class(c, known ? fmt::format("{:.4f}", std::sqrt(found->second.error / found->second.signal)) : "");
  }
  if (plan.mtp.n_matrices > 0) print_class(plan.mtp, "");
  fmt::print("{:<18} {:>8} {:>12.3f} {:>10.3f} {:>9.3f} {:>9}  {:.2f} bits per weight{}\n", "total", "",
             static_cast<double>(plan.parameters) / 1e9, gigabytes(plan.bytes), gigabytes(plan.read_bytes), "",
             plan.bits_per_weight(), plan.mtp.n_matrices > 0 ? ", without the MTP layer" : "");
}

nlohmann::ordered_json plan_json(const ConversionPlan& plan, double seconds, int n_threads) {
  nlohmann::ordered_json json = {{"recipe", plan.recipe->name},
                                 {"parameters", plan.parameters},
                                 {"bytes", plan.bytes},
                                 {"bits_per_weight", plan.bits_per_weight()},
                                 {"read_bytes_per_token", plan.read_bytes},
                                 {"mtp_bytes", plan.mtp.bytes},
                                 {"file_bytes", plan.file_bytes},
                                 {"estimated_seconds", seconds},
                                 {"threads", n_threads}};
  for (const auto& c : plan.classes) {
    json["classes"].push_back({{"name", c.name},
                               {"formats", c.formats},
                               {"count", c.n_matrices},
                               {"parameters", c.parameters},
                               {"bytes", c.bytes},
                               {"read_bytes_per_token", c.read_bytes}});
  }
  for (const auto& shard : plan.shards) json["files"].push_back({{"name", shard.name}, {"bytes", shard.file_bytes}});
  return json;
}

struct Options {
  std::string source, out, recipe, imatrix, ram = "8GiB";
  int n_threads = 0;
  bool plan_only = false, json = false, strict = false;

  [[nodiscard]] int threads() const { return n_threads > 0 ? n_threads : omp_get_num_procs(); }
};

Result<const quant::Recipe*> recipe_of(const Options& options, const rt::ModelConfig& config) {
  if (!options.recipe.empty()) return quant::find_recipe(options.recipe);
  R1_TRY(const quant::Recipe* const recipe, convert::default_recipe(config, memory_bytes()));
  fmt::print(stderr, "recipe {}: the largest that leaves room for the KV cache in this machine's {:.0f} GB\n",
             recipe->name, gigabytes(memory_bytes()));
  return recipe;
}

// --plan: from config.json alone.
Result<void> show_plan(const Options& options) {
  const bool is_directory = std::filesystem::is_directory(options.source);
  const std::string path = is_directory ? options.source + "/config.json" : options.source;
  R1_TRY(const std::string text, rt::read_text_file(path, 16 << 20));
  R1_TRY(const rt::ModelConfig config, rt::parse_config(text, path));
  R1_TRY(const quant::Recipe* const recipe, recipe_of(options, config));
  R1_TRY(const ConversionPlan plan,
         convert::make_plan(config, *recipe, convert::usual_bf16(config), std::string(16, '0')));
  const double seconds = estimated_seconds(plan, options.threads());
  if (options.json) {
    fmt::print("{}\n", plan_json(plan, seconds, options.threads()).dump(2));
    return {};
  }
  fmt::print("{} as {} ({})\n\n", rt::architecture_name(config.architecture), recipe->name, recipe->summary);
  print_classes(plan, {});
  fmt::print("\nfiles:\n");
  for (std::size_t i = 0; i < plan.shards.size(); ++i) {
    std::size_t last = i;  // runs of equal experts' files in one line
    while (last + 1 < plan.shards.size() && i > 0 && plan.shards[last + 1].file_bytes == plan.shards[i].file_bytes)
      ++last;
    fmt::print("  {}{}: {:.3f} GB{}\n", plan.shards[i].name, last > i ? " … " + plan.shards[last].name : "",
               gigabytes(plan.shards[i].file_bytes), last > i ? " each" : "");
    i = last;
  }
  fmt::print(
      "on disk: {:.3f} GB; a token reads {:.3f} GB; about {} of encoding on {} threads like this machine's (measured "
      "just now on random weights)\n",
      gigabytes(plan.file_bytes), gigabytes(plan.read_bytes), duration_text(seconds), options.threads());
  return {};
}

Result<void> run_conversion(const Options& options, std::uint64_t ram_bytes) {
  R1_TRY(const convert::Checkpoint checkpoint, convert::Checkpoint::open(options.source));
  R1_TRY(const quant::Recipe* const recipe, recipe_of(options, checkpoint.config()));
  rt::Imatrix imatrix;
  if (!options.imatrix.empty()) {
    R1_TRY(imatrix, rt::Imatrix::load(options.imatrix));
    const rt::ExpertCoverage coverage = rt::expert_coverage(checkpoint.config(), imatrix);
    if (coverage.n_few > 0) {
      fmt::print(stderr, "{}: {} of {} experts saw fewer than {} tokens ({} none): blended with their layer's mean\n",
                 options.imatrix, coverage.n_few, coverage.n_experts, rt::enough_expert_tokens, coverage.n_none);
    }
  }
  const rt::Imatrix* const used_imatrix = options.imatrix.empty() ? nullptr : &imatrix;
  R1_TRY(const ConversionPlan plan, convert::plan_conversion(checkpoint, *recipe, used_imatrix));

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

  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const double peak_gb = static_cast<double>(usage.ru_maxrss) * 1024 / 1e9;
  if (options.json) {
    nlohmann::ordered_json json = plan_json(plan, seconds, options.threads());
    json.erase("estimated_seconds");
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
  print_classes(plan, report->error_by_class);
  if (report->n_shards_kept > 0) fmt::print("{} finished shards were kept\n", report->n_shards_kept);
  fmt::print("{}: recipe {}, {:.3f} GB, in {} ({:.1f} MB/s of source), peak memory {:.2f} GB\n", options.out,
             recipe->name, gigabytes(plan.file_bytes), duration_text(seconds),
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
  if (!json) fmt::print("{}: {} tensors, {:.3f} GB, all checksums agree\n", directory, blobs.size(), gigabytes(bytes));
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
      "  r1-quantize CHECKPOINT OUT [--recipe NAME]   convert\n"
      "  r1-quantize --plan CHECKPOINT|config.json    show sizes and time, write nothing\n"
      "  r1-quantize verify MODEL                     re-check every checksum\n"
      "  r1-quantize synth --config CONFIG --layers N OUT   random weights of a config's shapes\n"
      "  r1-quantize imatrix MODEL OUT --text FILE    measure which weights matter, for --imatrix\n"
      "  r1-quantize recipes                          list the recipes",
      "r1-quantize"};
  app.add_option("checkpoint", options.source, "Checkpoint directory (with --plan, a config.json will do)")->required();
  app.add_option("out", options.out, "Output directory");
  app.add_option("--recipe", options.recipe, "Which formats to use; the default is the largest that fits this machine");
  app.add_option("--imatrix", options.imatrix, "Weigh errors by this file of r1-quantize imatrix");
  app.add_option("--threads", options.n_threads, "Threads; the default is one per core")->check(CLI::Range(1, 4096));
  app.add_option("--ram", options.ram, "Memory limit, e.g. 8GiB or 512MiB")->capture_default_str();
  app.add_flag("--plan", options.plan_only, "Show what would be written, and stop");
  app.add_flag("--strict", options.strict, "Fail where a tensor's error is far above what its format costs");
  app.add_flag("--json", options.json, "Print the summary as JSON");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    fmt::print("{}", app.help());
    return 0;
  } catch (const CLI::ParseError& e) {
    return wrong_usage(e.what());
  }
  if (!options.recipe.empty() && quant::find_recipe(options.recipe) == nullptr) {
    return wrong_usage(fmt::format("--recipe: {} is unknown; r1-quantize recipes lists them", options.recipe));
  }
  const auto ram_bytes = rt::parse_bytes(options.ram);
  if (!ram_bytes) return wrong_usage(fmt::format("--ram: {} is not a size like 8GiB", options.ram));
  if (!options.plan_only && options.out.empty()) return wrong_usage("the output directory is missing");
  const auto result = options.plan_only ? show_plan(options) : run_conversion(options, *ram_bytes);
  return result ? 0 : fail(result.error());
}

struct SynthFlags {
  std::string config, out, recipe;
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
  Options options;
  options.recipe = flags.recipe;
  R1_TRY(const quant::Recipe* const recipe, recipe_of(options, model.config));
  R1_TRY(const ConversionPlan plan, convert::plan_synthetic(model, *recipe));

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
    nlohmann::ordered_json json = plan_json(plan, seconds, flags.n_threads > 0 ? flags.n_threads : omp_get_num_procs());
    json.erase("estimated_seconds");
    json["seconds"] = seconds;
    json["written_bytes"] = *written;
    fmt::print("{}\n", json.dump(2));
    return {};
  }
  print_classes(plan, {});
  fmt::print("{}: {} of random weights, recipe {}, {:.3f} GB, in {} ({:.0f} MB/s)\n", flags.out,
             rt::architecture_name(model.config.architecture), recipe->name, gigabytes(plan.file_bytes),
             duration_text(seconds), static_cast<double>(*written) / 1e6 / std::max(seconds, 1e-9));
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
  app.add_option("--recipe", flags.recipe, "Which formats to use; the default is the largest that fits this machine");
  app.add_option_function<std::string>(
         "--router",
         [&](const std::string& name) {
           flags.router = name == "zipf" ? convert::SynthRouter::zipf : convert::SynthRouter::uniform;
         },
         "uniform: experts equally popular; zipf: a few are chosen much more often [uniform]")
      ->type_name("uniform|zipf")
      ->check(CLI::IsMember({"uniform", "zipf"}).description(""));
  app.add_option("--seed", flags.seed, "Other weights for another number")->capture_default_str();
  app.add_option("--threads", flags.n_threads, "Threads; the default is one per core")->check(CLI::Range(1, 4096));
  app.add_flag("--json", flags.json, "Print the summary as JSON");
  app.add_option("out", flags.out, "Output directory")->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    fmt::print("{}", app.help());
    return 0;
  } catch (const CLI::ParseError& e) {
    return wrong_usage(e.what());
  }
  if (!flags.recipe.empty() && quant::find_recipe(flags.recipe) == nullptr) {
    return wrong_usage(fmt::format("--recipe: {} is unknown; r1-quantize recipes lists them", flags.recipe));
  }
  const auto result = synthesize(flags);
  return result ? 0 : fail(result.error());
}

int main_verify(int argc, char** argv) {
  std::string directory;
  int n_threads = 0;
  bool json = false;
  CLI::App app{"Re-checks every checksum of a model directory.", "r1-quantize verify"};
  app.add_option("model", directory, "Model directory")->required();
  app.add_option("--threads", n_threads, "Threads; the default is one per core")->check(CLI::Range(1, 4096));
  app.add_flag("--json", json, "Print the result as JSON");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    fmt::print("{}", app.help());
    return 0;
  } catch (const CLI::ParseError& e) {
    return wrong_usage(e.what());
  }
  const auto result = verify(directory, n_threads > 0 ? n_threads : omp_get_num_procs(), json);
  return result ? 0 : fail(result.error());
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
  if (command == "synth") return main_synth(argc - 1, argv + 1);
  if (command == "recipes" && argc == 2) {
    list_recipes();
    return 0;
  }
  return main_convert(argc, argv);
}
