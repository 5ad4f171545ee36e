// Options that several commands share, and what the library makes of them.
#pragma once

#include <r1/generate.h>
#include <r1/model.h>
#include <r1/sampler.h>
#include <r1/session.h>
#include <r1/tune.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace r1::cli {

struct ModelFlags {
  ModelFlags() { options.load = LoadMode::map; }  // what generates text adds --load, and with it automatic
  ModelOptions options;
  bool load_given = false;  // --load
  void add_to(CLI::App& app, bool with_template);
  void add_load_to(CLI::App& app);
  [[nodiscard]] Result<std::shared_ptr<const Model>> open() const;
  [[nodiscard]] Result<std::shared_ptr<const Model>> open(const Tuning& tuning) const;
};

// What `r1 tune` found for this model on this machine; the defaults, with a warning, where its file is bad. Flags come
// first.
[[nodiscard]] Tuning stored_tuning(const std::string& model_path);

struct SessionFlags {
  std::uint32_t context_tokens = 0;
  std::optional<std::uint32_t> batch_tokens;
  int n_threads = 0;
  std::string kv_type = "f16";
  void add_to(CLI::App& app);
  // Warns where the threads outnumber the processors.
  [[nodiscard]] SessionOptions options(const Tuning& tuning) const;
};

struct SamplingFlags {
  std::optional<float> temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<std::int32_t> top_k;
  std::string seed;
  std::vector<std::string> logit_bias;  // "ID=VALUE"
  std::vector<std::string> stop_strings;
  std::uint32_t max_tokens = 0;
  bool greedy = false, ignore_end_tokens = false;
  void add_to(CLI::App& app);
  // What was given, over the model's defaults; without --seed, a random one.
  [[nodiscard]] Result<SamplingOptions> sampling(const SamplingOptions& defaults) const;
  [[nodiscard]] GenerateOptions generation() const;
};

// A chat's or a single prompt's rendering.
struct PromptFlags {
  std::string system;
  bool no_think = false, hide_thinking = false;
  void add_to(CLI::App& app);
  [[nodiscard]] Thinking thinking(const ChatTemplate& chat) const;
};

void add_isa_option(CLI::App& app, std::string& isa);
void add_threads_option(CLI::App& app, int& n_threads);
void add_kv_type_option(CLI::App& app, std::string& kv_type, const std::string& extra_help);
[[nodiscard]] KvCacheType kv_cache_type(const std::string& name);  // one of --kv-type's

}  // namespace r1::cli
