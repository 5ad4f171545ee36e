// --plan for R1's own config against the sizes of the format's description (GB = 10^9 bytes, without the MTP layer).
#include <doctest/doctest.h>

#include <string>

#include "checkpoint_maker.h"
#include "convert/plan.h"

using namespace r1;

namespace {

rt::ModelConfig config_of(const std::string& name) {
  const std::string path = R1_FIXTURES "/tokenizers/" + name + "/config.json";
  auto config = rt::parse_config(read_file(path), path);
  REQUIRE_MESSAGE(config.ok(), (config.ok() ? "" : config.error().text()));
  return *config;
}

}  // namespace

TEST_CASE("sizes of R1 at every recipe") {
  const rt::ModelConfig config = config_of("DeepSeek-R1");
  const struct {
    const char* recipe;
    double size_gb, bits, read_gb;
  } table[] = {{"r2.2s", 184.8, 2.20, 15.4}, {"r2.2", 189.3, 2.26, 17.2}, {"r2.5", 213.7, 2.55, 17.9},
               {"r2.7", 230.2, 2.74, 18.5},  {"r3.5", 295.5, 3.52, 20.5}, {"r4.5", 383.5, 4.57, 25.6},
               {"w8", 692.8, 8.26, 37.9}};
  for (const auto& row : table) {
    CAPTURE(row.recipe);
    const auto plan = convert::make_plan(config, *quant::find_recipe(row.recipe), convert::usual_bf16(config), "");
    REQUIRE(plan.ok());
    CHECK(static_cast<double>(plan->parameters) / 1e9 == doctest::Approx(671.03).epsilon(0.0001));
    CHECK(static_cast<double>(plan->bytes) / 1e9 == doctest::Approx(row.size_gb).epsilon(0.001));
    CHECK(plan->bits_per_weight() == doctest::Approx(row.bits).epsilon(0.003));
    CHECK(static_cast<double>(plan->read_bytes) / 1e9 ==
          doctest::Approx(row.read_gb).epsilon(0.004));  // the table has three digits
    CHECK(plan->shards.size() == 60);                    // common, and an expert file for layers 3 … 61
    CHECK(plan->file_bytes > plan->bytes + plan->mtp.bytes);
    CHECK(static_cast<double>(plan->file_bytes) < 1.001 * static_cast<double>(plan->bytes + plan->mtp.bytes));
  }
}

TEST_CASE("the default recipe is the largest that fits") {
  const rt::ModelConfig config = config_of("DeepSeek-R1");
  const auto chosen = [&](std::uint64_t gib) {
    return std::string((*convert::default_recipe(config, gib << 30))->name);
  };
  CHECK(chosen(64) == "r2.2s");
  CHECK(chosen(256) == "r2.7");
  CHECK(chosen(320) == "r3.5");
  CHECK(chosen(512) == "r4.5");
  CHECK(chosen(1024) == "r4.5");
}

TEST_CASE("the distills' configs are planned") {
  for (const char* name :
       {"DeepSeek-R1-Distill-Qwen-1.5B", "DeepSeek-R1-Distill-Qwen-32B", "DeepSeek-R1-Distill-Llama-8B",
        "DeepSeek-R1-Distill-Llama-70B", "DeepSeek-R1-0528-Qwen3-8B"}) {
    CAPTURE(name);
    const rt::ModelConfig config = config_of(name);
    double before = 0;
    for (const auto& recipe : quant::recipes()) {
      const auto plan = convert::make_plan(config, recipe, convert::usual_bf16(config), "");
      REQUIRE(plan.ok());
      if (std::string(recipe.name) != "r2.2" && std::string(recipe.name) != "r2.5")
        CHECK(static_cast<double>(plan->bytes) > before);
      before = static_cast<double>(plan->bytes);
    }
  }
}
