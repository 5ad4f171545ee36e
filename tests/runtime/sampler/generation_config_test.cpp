#include "runtime/sampler/generation_config.h"

#include <doctest/doctest.h>

#include <string>

using r1::rt::parse_generation_config;

namespace {

std::string error_of(const std::string& json) {
  const auto config = parse_generation_config(json, "generation_config.json");
  return config.ok() ? "" : config.error().text();
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("generation_config: what the file says, else the model card's values") {
  SUBCASE("R1's own file") {
    const auto config = parse_generation_config(R"({"_from_model_config": true, "bos_token_id": 0, "eos_token_id": 1,
        "do_sample": true, "temperature": 0.6, "top_p": 0.95, "transformers_version": "4.39.3"})",
                                                "");
    REQUIRE(config.ok());
    CHECK(config->sampling.temperature == 0.6f);
    CHECK(config->sampling.top_p == 0.95f);
    CHECK(config->sampling.top_k == 0);
    CHECK(config->eos_token_ids == std::vector<r1::Token>{1});
  }
  SUBCASE("Qwen2.5-style file") {
    const auto config = parse_generation_config(R"({"do_sample": true, "temperature": 0.7, "top_p": 0.8, "top_k": 20,
        "repetition_penalty": 1.05, "eos_token_id": [151645, 151643]})",
                                                "");
    REQUIRE(config.ok());
    CHECK(config->sampling.temperature == 0.7f);
    CHECK(config->sampling.top_p == 0.8f);
    CHECK(config->sampling.top_k == 20);
    CHECK(config->sampling.repetition_penalty == 1.05f);
    CHECK(config->eos_token_ids == std::vector<r1::Token>{151645, 151643});
  }
  SUBCASE("an empty object and nulls") {
    for (const char* json :
         {"{}", R"({"temperature": null, "top_p": null, "eos_token_id": null, "do_sample": null})"}) {
      const auto config = parse_generation_config(json, "");
      REQUIRE(config.ok());
      CHECK(config->sampling.temperature == 0.6f);
      CHECK(config->sampling.top_p == 0.95f);
      CHECK(config->eos_token_ids.empty());
    }
  }
  SUBCASE("do_sample false is greedy, top_k -1 is off") {
    const auto config = parse_generation_config(R"({"do_sample": false, "temperature": 0.9, "top_k": -1})", "");
    REQUIRE(config.ok());
    CHECK(config->sampling.temperature == 0.0f);
    CHECK(config->sampling.top_k == 0);
  }
}

TEST_CASE("generation_config: what is wrong is named, with its file") {
  for (const char* json : {"", "{", "[]", "7", "{\"temperature\": 0.6}}", "\xff\xfe"}) {
    CAPTURE(json);
    CHECK(error_of(json) == "generation_config.json: not a JSON object");
  }
  const char* const cases[][2] = {
      {R"({"temperature": "hot"})", "temperature is not a number"},
      {R"({"temperature": -1})", "temperature is -1"},
      {R"({"temperature": 1e300})", "temperature is inf"},
      {R"({"top_p": 0})", "top_p is 0"},
      {R"({"top_p": true})", "top_p is not a number"},
      {R"({"min_p": 2})", "min_p is 2"},
      {R"({"top_k": 1.5})", "top_k is not a whole number"},
      {R"({"top_k": -2})", "top_k -2 is out of range"},
      {R"({"top_k": 3000000000})", "top_k 3000000000 is out of range"},
      {R"({"top_k": 18446744073709551615})", "top_k 18446744073709551615 is out of range"},
      {R"({"repetition_penalty": 0})", "repetition_penalty is 0"},
      {R"({"do_sample": 1})", "do_sample is not true or false"},
      {R"({"eos_token_id": "</s>"})", "eos_token_id is not a whole number"},
      {R"({"eos_token_id": [1, 2.5]})", "eos_token_id is not a whole number"},
      {R"({"eos_token_id": -1})", "eos_token_id -1 is no token id"},
      {R"({"eos_token_id": 18446744073709551615})", "eos_token_id 18446744073709551615 is no token id"},
  };
  for (const auto& [json, message] : cases) {
    CAPTURE(std::string(json));
    CAPTURE(error_of(json));
    CHECK(contains(error_of(json), message));
    CHECK(contains(error_of(json), "generation_config.json: "));
  }
}
