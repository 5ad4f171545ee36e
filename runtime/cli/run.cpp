// r1 run: one prompt, one answer.
#include <fmt/format.h>
#include <r1/generate.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

#include "runtime/cli/answer.h"
#include "runtime/cli/commands.h"
#include "runtime/cli/files.h"
#include "runtime/cli/options.h"

namespace r1::cli {
namespace {

struct RunFlags {
  ModelFlags model;
  SessionFlags session;
  SamplingFlags sampling;
  PromptFlags prompt_flags;
  std::string prompt, file;
  bool prompt_given = false, raw = false, json = false, quiet = false;
};

Result<std::string> read_prompt(const RunFlags& flags) {
  if (flags.prompt_given) return flags.prompt;
  auto text = read_input(flags.file);
  // The line break that ends a text file is no part of the question; a raw prompt is taken as it is.
  if (text && !flags.raw && text->ends_with('\n')) text->pop_back();
  return text;
}

Result<Prompt> make_prompt(const RunFlags& flags, const Model& model, const std::string& text) {
  if (text.empty()) return Error{ErrorCode::invalid_argument, "the prompt is empty", ""};
  if (flags.raw) {
    const auto tokenizer = model.tokenizer();
    if (!tokenizer) return tokenizer.error();
    auto ids = (*tokenizer)->encode_with_special(text, SpecialTokens::parsed);
    if (!ids) return ids.error();
    Prompt prompt;
    prompt.text = text;
    prompt.ids = *std::move(ids);
    return prompt;
  }
  const auto chat = model.chat_template();
  if (!chat) return chat.error();
  std::vector<Message> messages;
  if (!flags.prompt_flags.system.empty()) messages.push_back({"system", flags.prompt_flags.system, {}});
  messages.push_back({"user", text, {}});
  return chat->render(messages, {.add_generation_prompt = true, .thinking = flags.prompt_flags.thinking(*chat)});
}

const char* describe(StopReason reason) {
  switch (reason) {
    case StopReason::end_token:
      return "done";
    case StopReason::stop_string:
      return "stop string";
    case StopReason::max_tokens:
      return "token limit reached";
    case StopReason::context_full:
      return "context full";
    case StopReason::cancelled:
      return "stopped";
  }
  return "";
}

void print_speed(const GenerateStats& stats) {
  fmt::print(stderr, "prompt {} tokens, {:.1f} tok/s · generated {} tokens, {:.1f} tok/s · {}\n", stats.n_prompt_tokens,
             stats.prefill_tokens_per_s(), stats.n_generated_tokens, stats.decode_tokens_per_s(),
             describe(stats.reason));
}

nlohmann::ordered_json to_json(const RunFlags& flags, const SamplingOptions& sampling, const GenerateStats& stats,
                               const AnswerPrinter& printer, double load_ms) {
  return {{"model", flags.model.options.path},
          {"thinking", printer.thinking()},
          {"answer", printer.answer()},
          {"tokens", stats.tokens},
          {"stop_reason", stop_reason_name(stats.reason)},
          {"seed", sampling.seed},
          {"n_prompt_tokens", stats.n_prompt_tokens},
          {"n_generated_tokens", stats.n_generated_tokens},
          {"timings",
           {{"load_ms", load_ms},
            {"prompt_ms", static_cast<double>(stats.prefill_ns) / 1e6},
            {"generate_ms", static_cast<double>(stats.decode_ns) / 1e6},
            {"prompt_tokens_per_second", stats.prefill_tokens_per_s()},
            {"generated_tokens_per_second", stats.decode_tokens_per_s()}}}};
}

int run(const RunFlags& flags, Environment& environment) {
  if (flags.prompt_given == !flags.file.empty()) {
    return report(
        {ErrorCode::invalid_argument, "give one prompt: --prompt TEXT, or --file FILE (- for standard input)", ""});
  }
  const auto text = read_prompt(flags);
  if (!text) return report(text.error());

  const auto start = std::chrono::steady_clock::now();
  const Tuning tuning = stored_tuning(flags.model.options.path);
  const auto model = flags.model.open(tuning);
  if (!model) return report(model.error());
  const std::chrono::duration<double, std::milli> load_time = std::chrono::steady_clock::now() - start;
  const auto sampling = flags.sampling.sampling((*model)->sampling_defaults());
  if (!sampling) return report(sampling.error());
  auto sampler = Sampler::create(*sampling);
  if (!sampler) return report(sampler.error());
  const auto prompt = make_prompt(flags, **model, *text);
  if (!prompt) return report(prompt.error());
  for (const std::string& warning : prompt->warnings) warn(warning);
  auto session = Session::create(*model, flags.session.options(tuning));
  if (!session) return report(session.error());

  GenerateOptions generation = flags.sampling.generation();
  if (!flags.raw) {
    const auto chat = (*model)->chat_template();  // kept: the span below points into it
    const auto stops = chat->stop_tokens();
    generation.end_tokens.assign(stops.begin(), stops.end());
  }
  AnswerPrinter printer(environment.terminal, flags.raw ? SplitThoughts::no : SplitThoughts::yes,
                        prompt->starts_in_thinking,
                        flags.prompt_flags.hide_thinking ? ShowThoughts::no : ShowThoughts::yes, flags.json);
  const Interrupts::Guard guard(environment.interrupts, *session);
  const auto stats = generate(*session, *sampler, prompt->ids, generation, [&](std::string_view piece, Token) {
    return printer.push(piece) && !environment.interrupts.happened();
  });
  printer.finish();
  if (!stats) return report(stats.error());
  if (flags.json) {
    environment.terminal.write(to_line(to_json(flags, *sampling, *stats, printer, load_time.count())));
  } else if (!flags.quiet && environment.terminal.status()) {
    print_speed(*stats);
  }
  return environment.interrupts.happened() ? exit_failed : exit_done;
}

}  // namespace

Command add_run(CLI::App& app) {
  const auto flags = std::make_shared<RunFlags>();
  flags->model.add_to(app, true);
  app.add_option("-p,--prompt", flags->prompt, "The question")
      ->type_name("TEXT")
      ->group("Prompt")
      ->each([flags](const std::string&) { flags->prompt_given = true; });
  app.add_option("-f,--file", flags->file, "Read the prompt from FILE, - for standard input")
      ->type_name("FILE")
      ->group("Prompt");
  flags->prompt_flags.add_to(app);
  app.add_flag("--raw", flags->raw, "Continue the text as it is: no template; special tokens in it are recognised")
      ->group("Prompt");
  flags->sampling.add_to(app);
  flags->session.add_to(app);
  flags->model.add_load_to(app);
  add_isa_option(app, flags->model.options.isa);
  app.add_flag("--json", flags->json, "Print one JSON object at the end instead of streaming text");
  app.add_flag("-q,--quiet", flags->quiet, "No speed on standard error");
  return [flags](Environment& environment) { return run(*flags, environment); };
}

}  // namespace r1::cli
