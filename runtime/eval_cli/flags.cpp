#include "runtime/eval_cli/flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "runtime/cli/files.h"

namespace r1::eval_cli {

void MachineFlags::add_to(CLI::App& app, cli::ModelFlags& model) {
  cli::add_threads_option(app, n_threads);
  cli::add_kv_type_option(app, kv_type, "[f16]");
  model.add_load_to(app);
  cli::add_isa_option(app, model.options.isa);
}

eval::RunOptions MachineFlags::run_options() const {
  return {.n_threads = n_threads, .kv_type = cli::kv_cache_type(kv_type)};
}

CLI::Option* TextFlags::add_to(CLI::App& app) {
  CLI::Option* const text =
      app.add_option("--text", path, "The text, UTF-8; - for standard input")->type_name("FILE")->group("Text");
  app.add_option("--context", window_tokens,
                 fmt::format("Tokens of a window; the second half of each is scored [{}]", eval::default_window_tokens))
      ->type_name("N")
      ->check(CLI::Range(eval::min_window_tokens, 1u << 30).description(""))
      ->group("Text");
  app.add_option("--windows", max_windows, "Only the first N windows [all]")
      ->type_name("N")
      ->check(CLI::Range(1u, 1u << 30).description(""))
      ->group("Text");
  CLI::Option* const special_flag =
      app.add_flag("--special", special, "Recognise special tokens in the text, as in prompts with their template")
          ->group("Text");
  app.add_flag("--documents", documents,
               "A window for every document of the text, from BOS to BOS, N tokens at most; with --special")
      ->needs(special_flag)
      ->group("Text");
  return text;
}

Result<eval::Windows> TextFlags::windows(const Model& model, bool quiet) const {
  const auto tokenizer = model.tokenizer();
  if (!tokenizer) return tokenizer.error();
  const auto text = cli::read_input(path);
  if (!text) return text.error();
  const std::string where = path == "-" ? "standard input" : path;
  eval::WindowOptions options;
  options.window_tokens = window_tokens;
  options.max_windows = max_windows;
  options.special = special ? SpecialTokens::parsed : SpecialTokens::literal;
  options.documents = documents;
  if (window_tokens > model.info().max_context_tokens) {
    return Error{
        ErrorCode::invalid_argument,
        fmt::format("--context {} is more than the model's {} tokens", window_tokens, model.info().max_context_tokens),
        ""};
  }
  auto windows = eval::make_windows(**tokenizer, *text, options, where);
  if (windows && windows->is_short && !quiet) {
    fmt::print(stderr, "{}: only {} tokens: one window of that length, not of {}\n", where, windows->longest(),
               window_tokens);
  }
  return windows;
}

void OutputFlags::add_to(CLI::App& app, bool with_state) {
  if (with_state) {
    app.add_option("--state", state_path, "Remember in FILE what is done: the same command goes on from there")
        ->type_name("FILE");
  }
  app.add_option("--svg", svg_path, "Draw the result into FILE")->type_name("FILE");
  app.add_flag("--json", json, "Print one JSON object");
  app.add_flag("-q,--quiet", quiet, "No progress on standard error");
}

nlohmann::ordered_json to_json(const eval::Estimate& estimate) {
  return {{"value", estimate.value}, {"standard_error", estimate.standard_error}};
}

nlohmann::ordered_json to_json(const eval::Windows& windows) {
  return {
      {"context", windows.longest()}, {"n_windows", windows.n_windows()}, {"n_left_over_tokens", windows.n_left_over}};
}

std::string to_text(const eval::Windows& windows) {
  const bool even = windows.tokens.size() == std::size_t{windows.n_windows()} * windows.longest();
  return fmt::format("{} tokens scored, in {} windows of {}{}\n", windows.n_scored_tokens(), windows.n_windows(),
                     even ? "" : "at most ", windows.longest());
}

std::string to_text(const eval::Estimate& e) {
  // Two digits of the error; without one, six of the value.
  const double scale = e.standard_error > 0 ? e.standard_error : std::abs(e.value) * 1e-4;
  if (!std::isfinite(e.value) || !std::isfinite(scale) || (scale > 0 && scale < 1e-6) || scale >= 1e6) {
    return fmt::format("{:.5g} ± {:.2g}", e.value, e.standard_error);
  }
  const int decimals = scale > 0 ? std::clamp(1 - static_cast<int>(std::floor(std::log10(scale))), 0, 9) : 1;
  return fmt::format("{:.{}f} ± {:.{}f}", e.value, decimals, e.standard_error, decimals);
}

}  // namespace r1::eval_cli
