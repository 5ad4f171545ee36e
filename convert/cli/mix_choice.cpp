#include "convert/cli/mix_choice.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cctype>
#include <cstdio>
#include <filesystem>

#include "convert/fit.h"
#include "convert/recipe_file.h"
#include "runtime/base/bytes.h"
#include "runtime/base/try.h"
#include "runtime/model_file/sensitivity.h"

namespace r1::convert {
namespace {

std::uint64_t memory_bytes() {
  return static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

// A name that no recipe has is a file if it looks like one.
bool is_file_name(const std::string& recipe) {
  std::error_code ignored;
  return recipe.ends_with(".json") || recipe.find('/') != std::string::npos ||
         std::filesystem::is_regular_file(recipe, ignored);
}

void show_fit(const rt::ModelConfig& config, const rt::Sensitivity& sensitivity, const Fit& fit, std::FILE* file) {
  const bool is_measured = !sensitivity.identity.empty();
  fmt::print(file, "{:<16} {:>9} {:>8} {:>10} {:>9} {:>12}\n", "tensors", "layers", "format", "GB", "read GB",
             is_measured ? "KLD" : "assumed");
  for (std::size_t i = 0; i < fit.items.size();) {
    FittedItem line = fit.items[i];
    std::size_t next = i + 1;  // neighbours of one format in one line
    for (; next < fit.items.size(); ++next) {
      const FittedItem& item = fit.items[next];
      if (item.tensor_class != line.tensor_class || item.format != line.format) break;
      line.last_layer = item.last_layer;
      line.bytes += item.bytes;
      line.read_bytes += item.read_bytes;
      line.kld += item.kld;
    }
    i = next;
    const std::string layers = line.first_layer < 0 ? ""
                               : line.first_layer == line.last_layer
                                   ? fmt::format("{}", line.first_layer)
                                   : fmt::format("{}-{}", line.first_layer, line.last_layer);
    fmt::print(file, "{:<16} {:>9} {:>8} {:>10.3f} {:>9.3f} {:>12.3g}\n", quant::class_name(line.tensor_class), layers,
               quant::info(line.format).name, static_cast<double>(line.bytes) / 1e9,
               static_cast<double>(line.read_bytes) / 1e9, line.kld);
  }
  if (!is_measured) {
    fmt::print(file, "\n");
    return;
  }
  if (fit.floor > 0) fmt::print(file, "{:<46} {:>12.3g}\n", "roundings, which any change disturbs", fit.floor);
  fmt::print(file, "predicted KLD {:.3g}; of the hand-made recipes:", fit.kld);
  for (const quant::Recipe& recipe : quant::recipes()) {
    if (std::string_view(recipe.name) != "exact")
      fmt::print(file, " {} {:.3g}", recipe.name, predicted_kld(sensitivity, hand_made_mix(config, recipe)));
  }
  fmt::print(file, "\n\n");
}

Result<Mix> fitted_mix(const MixFlags& flags, const MixModel& model, bool json) {
  FitOptions options;
  options.size_bytes = *rt::parse_bytes(flags.fit);
  options.size_name = flags.fit.substr(0, 32);  // part of a recipe's name
  std::erase_if(options.size_name, [](unsigned char c) { return std::isspace(c) != 0; });
  options.speed_weight = flags.speed_weight;
  rt::Sensitivity sensitivity;
  if (flags.sensitivity.empty()) {
    fmt::print(
        stderr,
        "no --sensitivity: all products of a layer are taken to suffer alike; r1-quantize sensitivity measures\n");
    sensitivity = assumed_sensitivity(model.config);
  } else {
    R1_TRY(sensitivity, rt::Sensitivity::load(flags.sensitivity));
  }
  R1_TRY(Fit fit, fit_mix(model.config, model.is_bf16, sensitivity, options, flags.sensitivity));
  if (!flags.sensitivity.empty() && model.identity) {
    R1_TRY(const std::string identity, model.identity());
    if (identity != sensitivity.identity) {
      return Error{ErrorCode::invalid_argument, "is of another model: its norms and biases are not this checkpoint's",
                   flags.sensitivity};
    }
  }
  show_fit(model.config, sensitivity, fit, json ? stderr : stdout);
  return std::move(fit.mix);
}

}  // namespace

void MixFlags::add_to(CLI::App& app) {
  app.add_option("--recipe", recipe,
                 "Which formats to use: a name, or a recipe file; the default is the largest that fits this machine")
      ->type_name("NAME|FILE.json");
}

void MixFlags::add_fit_to(CLI::App& app) {
  app.add_option("--fit", fit, "The best mix of formats that is no larger than this, e.g. 200GiB")->type_name("SIZE");
  app.add_option("--sensitivity", sensitivity, "What --fit goes by: a file of r1-quantize sensitivity")
      ->type_name("FILE.json");
  app.add_option("--speed-weight", speed_weight,
                 "How much --fit minds what each token reads, beside size: 0 not at all, 1 as much as the size")
      ->type_name("X")
      ->check(CLI::Range(0.0, 1000.0).description(""));
}

std::string MixFlags::problem() const {
  if (!recipe.empty() && !fit.empty()) return "--recipe and --fit exclude each other";
  if (fit.empty() && (!sensitivity.empty() || speed_weight != 0)) return "--sensitivity and --speed-weight need --fit";
  if (!fit.empty() && !rt::parse_bytes(fit)) return fmt::format("--fit: {} is not a size like 200GiB", fit);
  if (!recipe.empty() && quant::find_recipe(recipe) == nullptr && !is_file_name(recipe))
    return fmt::format("--recipe: {} is unknown; r1-quantize recipes lists them", recipe);
  return {};
}

Result<Mix> choose_mix(const MixFlags& flags, const MixModel& model, bool json) {
  const rt::ModelConfig& config = model.config;
  if (!flags.fit.empty()) return fitted_mix(flags, model, json);
  if (!flags.recipe.empty()) {
    const quant::Recipe* const named = quant::find_recipe(flags.recipe);
    if (named != nullptr) return hand_made_mix(config, *named);
    return load_recipe(flags.recipe, config);
  }
  R1_TRY(const quant::Recipe* const recipe, default_recipe(config, memory_bytes()));
  fmt::print(stderr, "recipe {}: the largest that leaves room for the KV cache in this machine's {:.0f} GB\n",
             recipe->name, static_cast<double>(memory_bytes()) / 1e9);
  return hand_made_mix(config, *recipe);
}

}  // namespace r1::convert
