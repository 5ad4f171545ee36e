// r1 trace: everything inside a forward pass, as a safetensors file.
#include <fmt/format.h>
#include <r1/trace.h>

#include <charconv>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "runtime/cli/commands.h"
#include "runtime/cli/options.h"

namespace r1::cli {
namespace {

struct TraceFlags {
  ModelFlags model;
  std::string ids, batches;  // "5,7,9"
  std::uint32_t start = 0;
  int n_threads = 0;
  std::string kv_type = "f32", out;
};

// "5,7,9" → numbers; the error names the option.
template <class Number>
Result<std::vector<Number>> parse_list(const char* option, const std::string& text) {
  std::vector<Number> numbers;
  const char *at = text.data(), *const end = at + text.size();
  for (;;) {
    Number number = 0;
    const auto [next, error] = std::from_chars(at, end, number);
    if (error != std::errc() || (next != end && *next != ',')) {
      return Error{ErrorCode::invalid_argument,
                   fmt::format("{} {}: expected whole numbers with commas between, e.g. 5,7,9", option, text), ""};
    }
    numbers.push_back(number);
    if (next == end) return numbers;
    at = next + 1;
  }
}

int run(const TraceFlags& flags, Environment& environment) {
  const auto ids = parse_list<Token>("--ids", flags.ids);
  if (!ids) return report(ids.error());
  TraceOptions options;
  if (!flags.batches.empty()) {
    auto batches = parse_list<std::uint32_t>("--batches", flags.batches);
    if (!batches) return report(batches.error());
    options.batches = *std::move(batches);
  }
  if (ids->size() > std::numeric_limits<std::uint32_t>::max() - flags.start) {
    return report({ErrorCode::invalid_argument, fmt::format("--start {} leaves no positions", flags.start), ""});
  }
  const auto model = flags.model.open();
  if (!model) return report(model.error());
  options.n_threads = flags.n_threads;
  options.kv_type = kv_cache_type(flags.kv_type);
  for (std::size_t i = 0; i < ids->size(); ++i) {
    options.positions.push_back(flags.start + static_cast<std::uint32_t>(i));
  }
  const auto result = trace(*model, *ids, options);
  if (!result) return report(result.error());
  if (const auto written = write_trace(*result, flags.out); !written) return report(written.error());
  environment.terminal.write(fmt::format("{}: {} tokens, {} layers, {} of them with experts{}\n", flags.out,
                                         result->n_tokens, result->n_layers, result->n_moe_layers,
                                         result->mtp_logits.empty() ? "" : ", MTP"));
  return exit_done;
}

}  // namespace

Command add_trace(CLI::App& app) {
  const auto flags = std::make_shared<TraceFlags>();
  flags->model.add_to(app, false);
  app.add_option("--ids", flags->ids, "Token ids, e.g. 5,7,9 (r1 tokenize gives them)")->required()->type_name("IDS");
  app.add_option("--start", flags->start, "Rotary position of the first token [0]")->type_name("POSITION");
  app.add_option("--batches", flags->batches, "Sizes of the steps to run in, e.g. 3,5 [one]")->type_name("SIZES");
  app.add_option("--out", flags->out,
                 "Where to write logits, hidden, attn_out, router_ids, router_weights, mtp_logits (safetensors)")
      ->required()
      ->type_name("FILE");
  add_isa_option(app, flags->model.options.isa);
  add_threads_option(app, flags->n_threads);
  add_kv_type_option(app, flags->kv_type, "[f32]");
  return [flags](Environment& environment) { return run(*flags, environment); };
}

}  // namespace r1::cli
