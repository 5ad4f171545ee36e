// Recipe files against the hand-made recipes they came from, and against what people get wrong.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "checkpoint_maker.h"
#include "convert/plan.h"
#include "convert/recipe_file.h"

using namespace r1;
using nlohmann::json;
using quant::Format;
using quant::TensorClass;

namespace {

const std::string nano = R1_SOURCE_DIR "/examples/r1-nano";
const std::string r1_config = R1_FIXTURES "/tokenizers/DeepSeek-R1/config.json";

rt::ModelConfig config_of(const std::string& path) {
  auto config = rt::parse_config(read_file(path), path);
  REQUIRE_MESSAGE(config.ok(), (config.ok() ? "" : config.error().text()));
  return *config;
}

convert::Mix parse(const json& recipe, const rt::ModelConfig& config) {
  const auto mix = convert::parse_recipe(recipe.dump(), config, "r.json");
  REQUIRE_MESSAGE(mix.ok(), (mix.ok() ? "" : mix.error().text()));
  return *mix;
}

}  // namespace

TEST_CASE("every hand-made recipe, written and read back, is the same mix") {
  for (const char* name : {"DeepSeek-R1", "DeepSeek-R1-Distill-Qwen-1.5B", "DeepSeek-R1-0528-Qwen3-8B"}) {
    CAPTURE(name);
    const rt::ModelConfig config = config_of(R1_FIXTURES "/tokenizers/" + std::string(name) + "/config.json");
    for (const quant::Recipe& recipe : quant::recipes()) {
      CAPTURE(recipe.name);
      const convert::Mix mix = convert::hand_made_mix(config, recipe);
      const auto again = convert::parse_recipe(convert::recipe_text(mix), config, "r.json");
      REQUIRE_MESSAGE(again.ok(), (again.ok() ? "" : again.error().text()));
      CHECK(again->formats == mix.formats);
      CHECK(again->name == mix.name);
      const auto plan = convert::make_plan(config, recipe, convert::usual_bf16(config), "0");
      const auto plan_again = convert::make_plan(config, *again, convert::usual_bf16(config), "0");
      CHECK(plan_again->fingerprint == plan->fingerprint);
      CHECK(plan_again->file_bytes == plan->file_bytes);
    }
  }
}

TEST_CASE("a recipe file gives formats by class, by layer, and by what it starts from") {
  const rt::ModelConfig config = config_of(r1_config);
  const convert::Mix base = convert::hand_made_mix(config, *quant::find_recipe("r2.7"));
  const convert::Mix mix =
      parse({{"r1_recipe", 1},
             {"name", "mine"},
             {"base", "r2.7"},
             {"formats", {{"head", "w8"}, {"routed_down", {{"3-5", "t4"}, {"60", "nl6"}}}, {"kv_a", "exact"}}}},
            config);
  for (const auto& [slot, choice] : mix.formats) {
    CAPTURE(quant::class_name(slot.tensor_class));
    CAPTURE(slot.layer);
    convert::FormatChoice expected = base.formats.at(slot);
    if (slot.tensor_class == TensorClass::head) expected = Format::w8;
    if (slot.tensor_class == TensorClass::routed_down && slot.layer >= 3 && slot.layer <= 5) expected = Format::t4;
    if (slot.tensor_class == TensorClass::routed_down && slot.layer == 60) expected = Format::nl6;
    if (slot.tensor_class == TensorClass::kv_a) expected = std::nullopt;
    CHECK(choice == expected);
  }
  CHECK(mix.formats.size() == base.formats.size());
  CHECK(mix.fingerprint() != base.fingerprint());
}

TEST_CASE("mistakes in a recipe file are one line with file and key") {
  const rt::ModelConfig config = config_of(r1_config);
  const json good = {{"r1_recipe", 1}, {"name", "mine"}, {"base", "r2.2"}, {"formats", json::object()}};
  REQUIRE(convert::parse_recipe(good.dump(), config, "r.json").ok());
  const auto message = [&](const std::string& text) {
    const auto mix = convert::parse_recipe(text, config, "r.json");
    REQUIRE_FALSE(mix.ok());
    const std::string error = mix.error().text();
    CHECK(std::count(error.begin(), error.end(), '\n') == 0);
    return error;
  };
  const struct {
    const char* patch;  // merged into the good one
    const char* part;
  } table[] = {
      {R"({"formats": {"routed_up": "t2"}})", "r.json: formats: routed_up: no such tensor class"},
      {R"({"formats": {"norm": "f32"}})", "formats: norm: norms are always f32"},
      {R"({"formats": {"q": "t2"}})", "formats: q: this model has no such tensors"},
      {R"({"formats": {"o": "q4_k"}})", "formats: o: q4_k is no format"},
      {R"({"formats": {"o": 4}})", "formats: o: must be a format's name"},
      {R"({"formats": {"router": "t2"}})", "formats: router: a router must be"},
      {R"({"formats": {"o": {"3-62": "t2"}}})", "formats: o: 3-62: this model's layers are 0 to 61"},
      {R"({"formats": {"o": {"5-3": "t2"}}})", "formats: o: 5-3: must be a layer"},
      {R"({"formats": {"o": {"-1": "t2"}}})", "formats: o: -1: must be a layer"},
      {R"({"formats": {"o": {"": "t2"}}})", "formats: o: : must be a layer"},
      {R"({"formats": {"o": {"1-": "t2"}}})", "formats: o: 1-: must be a layer"},
      {R"({"formats": {"o": {"99999999999": "t2"}}})", "must be a layer"},
      {R"({"formats": {"o": {"1": ["t2"]}}})", "formats: o: 1: must be a format's name"},
      {R"({"formats": {"o": {"1-3": "t2", "3": "t3"}}})", "layer 3 is in"},
      {R"({"formats": {"routed_down": {"0-2": "t2"}}})", "no such tensors there"},
      {R"({"formats": {"head": {"0": "nl6"}}})", "formats: head: is in no layer"},
      {R"({"formats": []})", "formats: must be an object"},
      {R"({"formats": null})", "formats: is missing"},
      {R"({"format": {}})", "format: no such key in a recipe"},
      {R"({"name": "a b"})", "name: must be"},
      {R"({"name": "r2.7"})", "name: r2.7 is a hand-made recipe with other formats"},
      {R"({"name": 3})", "name: must be a string"},
      {R"({"base": "r9"})", "base: r9 is unknown"},
      {R"({"base": null, "formats": {"embed": "t5"}})", "formats: head: has no format, and there is no base"},
      {R"({"r1_recipe": 2})", "r1_recipe: 2 is outside"},
      {R"({"r1_recipe": null})", "r1_recipe: is missing"},
  };
  for (const auto& row : table) {
    CAPTURE(row.patch);
    json recipe = good;
    recipe.merge_patch(json::parse(row.patch));
    const std::string error = message(recipe.dump());
    CAPTURE(error);
    CHECK(error.find("r.json: ") != std::string::npos);
    CHECK(error.find(row.part) != std::string::npos);
  }
  CHECK(message("{").find("is not JSON") != std::string::npos);
  CHECK(message("[]").find("must be a JSON object") != std::string::npos);
  CHECK(message("").find("is not JSON") != std::string::npos);
}

TEST_CASE("a tied embedding is its head") {
  rt::ModelConfig config = config_of(R1_FIXTURES "/tokenizers/DeepSeek-R1-Distill-Qwen-1.5B/config.json");
  config.tie_word_embeddings = true;
  CHECK_FALSE(
      convert::parse_recipe(R"({"r1_recipe":1,"base":"r2.2","formats":{"embed":"t4"}})", config, "r.json").ok());
  const convert::Mix mix = parse({{"r1_recipe", 1}, {"base", "r2.2"}, {"formats", {{"head", "w8"}}}}, config);
  for (const rt::BlobSpec& blob : rt::expected_blobs(config)) {
    if (blob.name == "model.embed_tokens.weight") CHECK(mix.format(config, blob, blob.matrices[0], true) == Format::w8);
  }
}

TEST_CASE("a model holds its recipe, and is made again from it, byte for byte") {
  const ScratchDirectory scratch;
  const std::string recipe = scratch / "r2.7.json";
  REQUIRE(run_quantize({"--plan", nano, "--recipe", "r2.7", "--write-recipe", recipe}).exit_code == 0);
  REQUIRE(run_quantize({nano, scratch / "named", "--recipe", "r2.7"}).exit_code == 0);
  CHECK(read_file(scratch / "named/recipe.json") == read_file(recipe));
  REQUIRE(run_quantize({nano, scratch / "again", "--recipe", recipe}).exit_code == 0);
  CHECK(read_directory(scratch / "named") == read_directory(scratch / "again"));

  write_file(scratch / "mine.json",
             R"({"r1_recipe": 1, "name": "mine", "base": "r2.7", "formats": {"routed_down": {"2": "nl6"}}})");
  REQUIRE(run_quantize({nano, scratch / "mine", "--recipe", scratch / "mine.json"}).exit_code == 0);
  const auto config = json::parse(read_file(scratch / "mine/config.json"));
  CHECK(config["quantization_config"]["recipe"] == "mine");
  CHECK(run_quantize({"verify", scratch / "mine"}).exit_code == 0);
  CHECK(read_file(scratch / "mine/experts-002.safetensors").size() >
        read_file(scratch / "named/experts-002.safetensors").size());
  // Another mix of the same name is another conversion.
  write_file(scratch / "mine.json", R"({"r1_recipe": 1, "name": "mine", "base": "r2.7", "formats": {}})");
  const Run run = run_quantize({nano, scratch / "mine", "--recipe", scratch / "mine.json", "--json"});
  REQUIRE(run.exit_code == 0);
  CHECK(json::parse(run.out)["shards_kept"] == 0);

  const Run bad = run_quantize({nano, scratch / "bad", "--recipe", scratch / "absent.json"});
  CHECK(bad.exit_code == 1);
  CHECK(bad.err.find("absent.json") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(scratch / "bad"));
}
