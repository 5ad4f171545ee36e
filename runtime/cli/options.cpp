#include "runtime/cli/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <map>
#include <random>
#include <thread>

#include "runtime/cli/terminal.h"

namespace r1::cli {
namespace {

constexpr int max_threads = 1024;

Result<std::pair<Token, float>> parse_logit_bias(const std::string& text) {
  const Error error{ErrorCode::invalid_argument, fmt::format("--logit-bias {}: expected ID=VALUE, e.g. 1234=-5", text),
                    ""};
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos) return error;
  Token id = 0;
  const char* const id_end = text.data() + equals;
  if (const auto r = std::from_chars(text.data(), id_end, id); r.ec != std::errc() || r.ptr != id_end) return error;
  float value = 0;
  const char *const begin = id_end + 1, *const end = text.data() + text.size();
  if (const auto r = std::from_chars(begin, end, value); r.ec != std::errc() || r.ptr != end) return error;
  return std::pair(id, value);
}

std::uint64_t random_seed() {
  std::random_device device;
  return device();  // 32 bits: short enough to type again
}

}  // namespace

void add_threads_option(CLI::App& app, int& n_threads) {
  app.add_option("--threads", n_threads, "Threads [one per physical core]")
      ->type_name("N")
      ->check(CLI::Range(1, max_threads).description(""))
      ->group("Machine");
}

void add_kv_type_option(CLI::App& app, std::string& kv_type, const std::string& extra_help) {
  app.add_option("--kv-type", kv_type, "Number type of the KV cache: f16, bf16, q8 or f32 " + extra_help)
      ->type_name("TYPE")
      ->check(CLI::IsMember({"f16", "bf16", "q8", "f32"}).description(""))
      ->group("Machine");
}

void add_isa_option(CLI::App& app, std::string& isa) {
  app.add_option("--isa", isa, "Instruction set of the kernels, as listed by r1 doctor [the best; R1_ISA]")
      ->type_name("NAME")
      ->group("Machine");
}

KvCacheType kv_cache_type(const std::string& name) {
  if (name == "bf16") return KvCacheType::bf16;
  if (name == "f32") return KvCacheType::f32;
  if (name == "q8") return KvCacheType::q8;
  return KvCacheType::f16;
}

void ModelFlags::add_to(CLI::App& app, bool with_template) {
  app.add_option("MODEL", options.path, "Model directory that r1-quantize wrote")->required()->type_name("");
  if (with_template) {
    app.add_option("--template", options.template_name,
                   fmt::format("Chat template, instead of the model's own: {}", fmt::join(template_names(), ", ")))
        ->type_name("NAME")
        ->group("Prompt");
  }
}

void ModelFlags::add_load_to(CLI::App& app) {
  static const std::map<std::string, LoadMode> modes = {
      {"auto", LoadMode::automatic}, {"map", LoadMode::map}, {"read", LoadMode::read}};
  options.load = LoadMode::automatic;
  app.add_option_function<std::string>(
         "--load",
         [this](const std::string& name) {
           options.load = modes.at(name);
           load_given = true;
         },
         "Weights in the files' pages (map), or copied to huge pages first (read): slower to start, faster to run "
         "[auto]")
      ->type_name("map|read|auto")
      ->check(CLI::IsMember({"map", "read", "auto"}).description(""))
      ->group("Machine");
}

Result<std::shared_ptr<const Model>> ModelFlags::open() const {
  return Model::open(options);
}

Result<std::shared_ptr<const Model>> ModelFlags::open(const Tuning& tuning) const {
  ModelOptions tuned = options;
  if (!load_given) tuned.load = tuning.load;
  return Model::open(tuned);
}

Tuning stored_tuning(const std::string& model_path) {
  const auto file = tuning_file();
  if (!file) return {};  // no home, no settings
  const auto tuning = find_tuning(*file, model_path);
  if (!tuning) {
    // A model that is not there is told where it is opened.
    if (tuning.error().context.starts_with(*file)) {
      warn(fmt::format("{}; delete it, or make it anew with r1 tune: going on without it", tuning.error().text()));
    }
    return {};
  }
  return tuning->value_or(Tuning{});
}

void SessionFlags::add_to(CLI::App& app) {
  app.add_option("--ctx", context_tokens, "Context, in tokens [what the model and the memory allow]")
      ->type_name("N")
      ->check(CLI::Range(1u, 1u << 30).description(""))
      ->group("Machine");
  add_threads_option(app, n_threads);
  app.add_option("--batch", batch_tokens,
                 "Tokens of a prompt that are computed together [4096, or what the memory allows]")
      ->type_name("N")
      ->check(CLI::Range(1u, 4096u).description(""))
      ->group("Machine");
  add_kv_type_option(app, kv_type, "[f16]");
}

SessionOptions SessionFlags::options(const Tuning& tuning) const {
  const unsigned n_processors = std::thread::hardware_concurrency();
  if (n_processors > 0 && n_threads > static_cast<int>(n_processors)) {
    warn(fmt::format("--threads {} on {} processors: more threads than processors slow each other down", n_threads,
                     n_processors));
  }
  SessionOptions options;
  options.context_tokens = context_tokens;
  options.batch_tokens = batch_tokens;
  options.n_threads = n_threads > 0 ? n_threads : tuning.decode_threads;
  options.prefill_threads = n_threads > 0 ? 0 : tuning.prefill_threads;
  options.kv_type = kv_cache_type(kv_type);
  return options;
}

void SamplingFlags::add_to(CLI::App& app) {
  const char* group = "Sampling (defaults: the model's generation_config.json, else temperature 0.6, top-p 0.95)";
  const auto number = [&](const char* name, auto& value, const char* help) {
    app.add_option(name, value, help)->type_name("X")->group(group);
  };
  number("--temperature", temperature, "0 is greedy");
  number("--top-p", top_p, "Draw from the likeliest tokens that reach this probability together; 1 is off");
  number("--top-k", top_k, "Draw from the K likeliest tokens; 0 is off");
  number("--min-p", min_p, "Leave out tokens less likely than this share of the likeliest; 0 is off");
  number("--repetition-penalty", repetition_penalty, "For tokens of prompt and answer; 1 is off");
  number("--presence-penalty", presence_penalty, "For tokens of the answer, once; -2 to 2");
  number("--frequency-penalty", frequency_penalty, "For tokens of the answer, each time; -2 to 2");
  app.add_option("--logit-bias", logit_bias, "Add VALUE to the logit of token ID (repeatable)")
      ->type_name("ID=VALUE")
      ->allow_extra_args(false)
      ->group(group);
  app.add_option("--seed", seed, "Same seed, same text [random]")->type_name("N")->group(group);
  app.add_flag("--greedy", greedy, "Always the likeliest token: --temperature 0")->group(group);

  app.add_option("-n,--max-tokens", max_tokens, "End after N tokens [when the context is full]")
      ->type_name("N")
      ->check(CLI::Range(1u, 1u << 30).description(""))
      ->group("End of the answer");
  app.add_option("--stop", stop_strings, "End before this text (repeatable)")
      ->type_name("TEXT")
      ->allow_extra_args(false)
      ->group("End of the answer");
  app.add_flag("--ignore-eos", ignore_end_tokens, "Go on after an end token")->group("End of the answer");
}

Result<SamplingOptions> SamplingFlags::sampling(const SamplingOptions& defaults) const {
  SamplingOptions options = defaults;
  const auto take = [](const auto& given, auto& option) {
    if (given) option = *given;
  };
  take(temperature, options.temperature);
  take(top_p, options.top_p);
  take(top_k, options.top_k);
  take(min_p, options.min_p);
  take(repetition_penalty, options.repetition_penalty);
  take(presence_penalty, options.presence_penalty);
  take(frequency_penalty, options.frequency_penalty);
  if (greedy) options.temperature = 0;
  for (const std::string& text : logit_bias) {
    auto bias = parse_logit_bias(text);
    if (!bias) return bias.error();
    options.logit_bias.push_back(*bias);
  }
  options.seed = random_seed();
  if (!seed.empty()) {
    const char* const end = seed.data() + seed.size();
    if (const auto r = std::from_chars(seed.data(), end, options.seed); r.ec != std::errc() || r.ptr != end) {
      return Error{ErrorCode::invalid_argument, fmt::format("--seed {}: expected a whole number under 2^64", seed), ""};
    }
  }
  return options;
}

GenerateOptions SamplingFlags::generation() const {
  GenerateOptions options;
  options.max_tokens = max_tokens;
  options.stop_strings = stop_strings;
  options.ignore_end_tokens = ignore_end_tokens;
  return options;
}

void PromptFlags::add_to(CLI::App& app) {
  app.add_option("--system", system, "System prompt (DeepSeek-R1's card advises against one)")
      ->type_name("TEXT")
      ->group("Prompt");
  app.add_flag("--no-think", no_think, "Answer at once: an empty think block is written for the model")
      ->group("Prompt");
  app.add_flag("--hide-thinking", hide_thinking, "Show the answer only")->group("Prompt");
}

Thinking PromptFlags::thinking(const ChatTemplate& chat) const {
  if (no_think) return Thinking::empty;
  return chat.is_reasoning() ? Thinking::enforced : Thinking::by_template;
}

}  // namespace r1::cli
