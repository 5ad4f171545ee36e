#include "convert/cli/mix_choice.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>

#include "convert/plan.h"
#include "convert/recipe_file.h"
#include "runtime/base/try.h"

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

}  // namespace

void MixFlags::add_to(CLI::App& app) {
  app.add_option("--recipe", recipe,
                 "Which formats to use: a name, or a recipe file; the default is the largest that fits this machine")
      ->type_name("NAME|FILE.json");
}

std::string MixFlags::problem() const {
  if (!recipe.empty() && quant::find_recipe(recipe) == nullptr && !is_file_name(recipe))
    return fmt::format("--recipe: {} is unknown; r1-quantize recipes lists them", recipe);
  return {};
}

Result<Mix> choose_mix(const MixFlags& flags, const rt::ModelConfig& config) {
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
