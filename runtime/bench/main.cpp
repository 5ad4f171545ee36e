// r1-bench: how fast a model, and the kernels under it, run on this machine.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "runtime/bench/attention_bench.h"
#include "runtime/bench/gemm_bench.h"
#include "runtime/bench/kernel_bench.h"
#include "runtime/bench/model_bench.h"
#include "runtime/bench/report.h"
#include "runtime/bench/speed_plot.h"
#include "runtime/cli/files.h"
#include "runtime/cli/options.h"
#include "runtime/cli/program.h"
#include "runtime/cli/terminal.h"
#include "runtime/engine/session_impl.h"

namespace r1::bench {
namespace {

using namespace cli;

constexpr std::uint32_t max_tokens = 1u << 24;

struct ModelFlags {
  cli::ModelFlags model;
  ModelBenchOptions options;
  std::string kv_type = "f16", svg_path;
  bool json = false;
};

struct KernelFlags {
  KernelBenchOptions options;
  std::string isa;
  std::vector<std::string> formats, products;
  bool attention = false, gemm = false, json = false;
};

// A line on a terminal that says what is being measured.
class Progress {
 public:
  void step(const std::string& what) const {
    if (is_terminal_) fmt::print(stderr, "\r\x1b[K{}", what);
  }
  ~Progress() {
    if (is_terminal_) fmt::print(stderr, "\r\x1b[K");
  }

 private:
  bool is_terminal_ = ::isatty(STDERR_FILENO) == 1;
};

Result<std::unique_ptr<ReadBandwidth>> memory_to_read() {
  std::unique_ptr<ReadBandwidth> reads = ReadBandwidth::create(numa::read_topology());
  if (reads == nullptr) return Error{ErrorCode::out_of_memory, "no memory to measure the read bandwidth with", ""};
  return reads;
}

void warn_of_threads(int n_threads) {
  const int n_processors = numa::read_topology().n_threads;
  if (n_threads <= n_processors) return;
  warn(fmt::format("--threads {} on {} processors: more threads than processors slow each other down", n_threads,
                   n_processors));
}

void add_model_options(CLI::App& app, ModelFlags& flags) {
  app.add_option("MODEL", flags.model.options.path, "Model directory that r1-quantize wrote")->type_name("");
  const auto lengths = [&](const char* name, std::vector<std::uint32_t>& values, const char* help) {
    return app.add_option(name, values, help)
        ->delimiter(',')
        ->type_name("N,...")
        ->check(CLI::Range(0u, max_tokens).description(""));
  };
  lengths("--prompt", flags.options.prompt_tokens, "Prefill of prompts of so many tokens [128,512]");
  lengths("--depth", flags.options.depth_tokens, "Decode behind so many tokens [0,4096,16384]");
  app.add_option("--generate", flags.options.generate_tokens, "Tokens to decode per depth and repetition; 0: none [64]")
      ->type_name("N")
      ->check(CLI::Range(0u, max_tokens).description(""));
  app.add_option("--repeat", flags.options.n_repeats, "Repetitions, of which the median counts [5]")
      ->type_name("N")
      ->check(CLI::Range(1u, 1000u).description(""));
  app.add_option("--threads", flags.options.n_threads, "Threads, several counts in turn [one per physical core]")
      ->delimiter(',')
      ->type_name("N,...")
      ->check(CLI::Range(1, 1024).description(""))
      ->group("Machine");
  app.add_option("--batch", flags.options.batch_tokens, "Tokens of a prompt that are computed together [as r1 run]")
      ->type_name("N")
      ->check(CLI::Range(1u, 4096u).description(""))
      ->group("Machine");
  flags.model.add_load_to(app);
  add_kv_type_option(app, flags.kv_type, "[f16]");
  add_isa_option(app, flags.model.options.isa);
  app.add_flag("--profile", flags.options.profile, "Split the time by phase");
  app.add_option("--svg", flags.svg_path, "Write a plot of decode speed by depth")->type_name("FILE");
  app.add_flag("--json", flags.json, "As one JSON object");
}

int run_model(ModelFlags& flags) {
  // The depths that this model has room for, unless some were asked for; the same for prompts.
  const auto model = flags.model.open();
  if (!model) return report(model.error());
  ModelBenchOptions& options = flags.options;
  options.kv_type = kv_cache_type(flags.kv_type);
  const auto fitting = [&](std::vector<std::uint32_t> usual, std::uint64_t behind) {
    std::erase_if(usual, [&](std::uint32_t n) { return n + behind > (*model)->info().max_context_tokens; });
    return usual;
  };
  if (options.depth_tokens.empty()) options.depth_tokens = fitting({0, 4096, 16384}, options.generate_tokens + 1ull);
  if (options.prompt_tokens.empty()) options.prompt_tokens = fitting({128, 512}, 0);
  if (options.generate_tokens == 0) options.depth_tokens.clear();
  std::erase(options.prompt_tokens, 0u);
  if (options.depth_tokens.empty() && options.prompt_tokens.empty()) {
    return report(
        {ErrorCode::invalid_argument, "nothing to measure: --generate 0 and no prompt of a token or more", ""});
  }
  if (options.n_threads.empty()) options.n_threads = {0};
  for (const int n : options.n_threads) warn_of_threads(n);

  auto reads = memory_to_read();
  if (!reads) return report(reads.error());
  const auto results = [&] {
    const Progress progress;
    options.on_step = [&](const std::string& what) { progress.step(what); };
    return bench_model(*model, options, **reads);
  }();
  if (!results) return report(results.error());

  const ModelInfo& info = (*model)->info();
  const LoadReport& load = (*model)->load_report();
  const std::string isa = (*model)->isa();
  if (!flags.svg_path.empty()) {
    const std::string svg = speed_by_depth_svg(
        *results, fmt::format("{} {}, {} cache, {}", info.architecture, info.recipe, flags.kv_type, isa));
    if (svg.empty()) return report({ErrorCode::invalid_argument, "--svg: no depth was measured", ""});
    if (const auto written = write_file(flags.svg_path, svg); !written) return report(written.error());
  }
  Terminal terminal;
  const char* load_name = load.mode == LoadMode::map ? "map" : "read";
  if (flags.json) {
    terminal.write(to_line({{"model", info.path},
                            {"recipe", info.recipe},
                            {"kv_type", flags.kv_type},
                            {"load", load_name},
                            {"results", to_json(*results, isa)}}));
  } else {
    terminal.write_foreign(fmt::format("{}: {} {}, {} cache, {}, load {} ({})\n\n", info.path, info.architecture,
                                       info.recipe, flags.kv_type, isa, load_name, load.reason));
    terminal.write(to_table(*results));
    terminal.write(
        "\nMedians over repetitions. reads: plain reads of memory between them, with the same threads; %: GB/s of "
        "reads.\n");
  }
  terminal.flush();
  const auto written = terminal.status();
  return written ? exit_done : report(written.error());
}

void add_kernel_options(CLI::App& app, KernelFlags& flags) {
  app.add_flag("--gemm", flags.gemm,
               "Instead: batches of 1 to 512 tokens on one core beside what it can do on registers, and R1's prefill "
               "products by our tiles and by oneDNN");
  app.add_option("--product", flags.products,
                 "With --gemm: R1's products to measure; none: no comparison with oneDNN [all]")
      ->delimiter(',')
      ->type_name("NAME,...")
      ->check(CLI::IsMember([] {
        std::vector<std::string> names = onednn_bench_products();
        names.emplace_back("none");
        return names;
      }()));
  app.add_flag(
      "--attention", flags.attention,
      "Instead: one token of R1's attention at depth, by type of cache, beside the widest multiply-add that it "
      "can use");
  app.add_option("--format", flags.formats, "Formats to measure [all]")->delimiter(',')->type_name("NAME,...");
  app.add_option("--tokens", flags.options.n_tokens, "Tokens of the batch [1]")
      ->type_name("N")
      ->check(CLI::Range(1u, simd::max_gemv_tokens).description(""));
  app.add_option("--k", flags.options.k, "Weights of a row [7168, DeepSeek-R1's width]")
      ->type_name("N")
      ->check(CLI::Range(512u, 65536u).description(""));
  app.add_option("--seconds", flags.options.seconds, "For each figure [0.5]")
      ->type_name("S")
      ->check(CLI::Range(0.01, 600.0).description(""));
  add_threads_option(app, flags.options.n_threads);
  app.add_option("--isa", flags.isa, "Instruction set [all that this machine has]")
      ->type_name("NAME")
      ->group("Machine");
  app.add_flag("--json", flags.json, "As one JSON object");
}

// Depths as r1-bench MODEL has them, without the one where attention is nothing.
int run_attention(const KernelFlags& flags) {
  numa::ThreadTeam team({flags.options.n_threads, true});
  std::vector<AttentionBenchResult> results;
  {
    const Progress progress;
    for (const simd::Isa isa : flags.options.isas) {
      for (const char* type : {"q8", "bf16", "f16"}) {
        for (const std::uint32_t depth : {4096u, 16384u}) {
          progress.step(fmt::format("{} {} at depth {}", simd::isa_name(isa), type, depth));
          const simd::KvType kv_type = rt::kv_type_of(kv_cache_type(type));
          results.push_back({isa, type, depth, team.size(),
                             measure_mla_decode(team, *simd::kernels_for(isa), kv_type, depth, flags.options.seconds)});
        }
      }
    }
  }
  Terminal terminal;
  if (flags.json) {
    terminal.write(to_line({{"results", to_json(results)}}));
  } else {
    terminal.write(
        "128 heads over one cache of latents (512 + 64): 1,088 multiply-adds per head and cached token.\n\n");
    terminal.write(to_table(results));
    terminal.write("\npeak: integer dot products for q8, bf16 ones where the machine has them for bf16, else FMA.\n");
  }
  terminal.flush();
  const auto written = terminal.status();
  return written ? exit_done : report(written.error());
}

int run_gemm(const KernelFlags& flags, const ReadBandwidth& memory) {
  GemmBenchOptions options;
  options.isas = flags.options.isas;
  options.formats = flags.options.formats;
  options.n_tokens = {1, 2, 4, 8, 16, 32, 128, 512};
  options.k = flags.options.k;
  options.seconds = flags.options.seconds;
  OnednnBenchOptions onednn;
  onednn.kernels = simd::kernels_for(*std::max_element(options.isas.begin(), options.isas.end()));
  onednn.products = flags.products;
  onednn.seconds = flags.options.seconds;
  std::vector<GemmBenchResult> results;
  std::vector<OnednnBenchResult> products;
  std::vector<std::pair<simd::Isa, std::vector<Peak>>> peaks;
  {
    const Progress progress;
    options.on_step = onednn.on_step = [&](const std::string& what) { progress.step(what); };
    for (const simd::Isa isa : options.isas)
      peaks.emplace_back(isa, measure_peaks(*simd::kernels_for(isa), flags.options.seconds));
    results = bench_gemm(options, memory.data(), memory.size());
    products = bench_onednn(onednn);
  }
  Terminal terminal;
  if (flags.json) {
    nlohmann::ordered_json peaks_json = nlohmann::ordered_json::object();
    for (const auto& [isa, kinds] : peaks) peaks_json[simd::isa_name(isa)] = to_json(kinds);
    terminal.write(to_line({{"k", flags.options.k},
                            {"peaks", peaks_json},
                            {"results", to_json(results)},
                            {"products", to_json(products)}}));
  } else {
    terminal.write("On registers, one thread, Gmac/s:\n");
    for (const auto& [isa, kinds] : peaks)
      terminal.write(fmt::format("{:<12} {}\n", simd::isa_name(isa), to_words(kinds)));
    terminal.write('\n' + to_table(results));
    if (!products.empty()) {
      terminal.write(
          "\nR1's prefill products, one core. from packed: with oneDNN's weights made from packed panels.\n\n");
      terminal.write(to_table(products));
    }
    terminal.write("\nMedians over turns of batches and of multiply-adds on registers, one thread.\n");
  }
  terminal.flush();
  const auto written = terminal.status();
  return written ? exit_done : report(written.error());
}

int run_kernels(KernelFlags& flags) {
  KernelBenchOptions& options = flags.options;
  if (!flags.isa.empty()) {
    std::string why;
    const simd::Kernels* kernels = simd::choose_kernels(flags.isa, &why);
    if (kernels == nullptr) return report({ErrorCode::invalid_argument, why, "--isa"});
    options.isas = {kernels->isa};
  } else {
    for (const simd::IsaReport& line : simd::isa_report("")) {
      if (line.available && line.isa != simd::Isa::scalar) options.isas.push_back(line.isa);
    }
  }
  if (flags.attention) {
    if (flags.gemm) return report({ErrorCode::invalid_argument, "--attention or --gemm: one at a time", ""});
    if (!flags.formats.empty()) {
      return report({ErrorCode::invalid_argument, "--attention has no weight formats: leave --format out", ""});
    }
    warn_of_threads(options.n_threads);
    return run_attention(flags);
  }
  for (const std::string& name : flags.formats) {
    const auto format = quant::format_from_name(name);
    if (!format) return report({ErrorCode::invalid_argument, name + " is no weight format", "--format"});
    options.formats.push_back(*format);
  }
  if (options.formats.empty()) options.formats.assign(quant::all_formats.begin(), quant::all_formats.end());
  warn_of_threads(options.n_threads);

  auto reads = memory_to_read();
  if (!reads) return report(reads.error());
  if (flags.gemm) return run_gemm(flags, **reads);
  const auto results = [&] {
    const Progress progress;
    options.on_step = [&](const std::string& what) { progress.step(what); };
    return bench_kernels(options, **reads);
  }();
  Terminal terminal;
  if (flags.json) {
    terminal.write(to_line({{"k", flags.options.k}, {"results", to_json(results)}}));
  } else {
    terminal.write(fmt::format("Rows of {} weights. dram: all threads; l2: one.\n\n", flags.options.k));
    terminal.write(to_table(results));
    terminal.write(
        "\nMedians over turns of product and plain reads of the same memory; %: of reads, turn by turn; half of the "
        "turns lie "
        "in the middle half.\n");
  }
  terminal.flush();
  const auto written = terminal.status();
  return written ? exit_done : report(written.error());
}

int run(int argc, char** argv) {
  CLI::App app("Measures how fast a model runs on this machine, beside the memory bandwidth that it measures.",
               "r1-bench");
  describe(app);
  ModelFlags model_flags;
  KernelFlags kernel_flags;
  add_model_options(app, model_flags);
  CLI::App* kernels = app.add_subcommand("kernels", "The kernels alone: from DRAM and from L2, by format");
  add_kernel_options(*kernels, kernel_flags);
  if (const auto code = parse(app, argc, argv)) return *code;
  if (kernels->parsed()) return run_kernels(kernel_flags);
  if (model_flags.model.options.path.empty()) {
    return report(
        {ErrorCode::invalid_argument, "MODEL or kernels is required (r1-bench --help lists the options)", ""});
  }
  return run_model(model_flags);
}

}  // namespace
}  // namespace r1::bench

int main(int argc, char** argv) {
  return r1::cli::run_program("r1-bench", r1::bench::run, argc, argv);
}
