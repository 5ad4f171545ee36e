// Every rule that a tokenizer.json may use, against the reference's ids (make_rules.py): r1-nano's file with one part
// replaced at a time.
#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/tokenizer/tokenizer_impl.h"

using namespace r1;

namespace {

// The merges of a variant, told by how they differ from the file's.
nlohmann::json change_merges(const nlohmann::json& merges, const std::string& how) {
  nlohmann::json changed = nlohmann::json::array();
  for (std::size_t i = how == "from 300" ? 300 : 0; i < merges.size(); ++i) {
    const std::string left = merges[i][0], right = merges[i][1];
    changed.push_back(how == "strings" ? nlohmann::json(left + " " + right) : merges[i]);
  }
  for (std::size_t i = 0; how == "first 200 again" && i < 200; ++i) changed.push_back(merges[i]);
  return changed;
}

}  // namespace

TEST_CASE("every rule of tokenizer.json, one at a time") {
  std::ifstream base_file(R1_SOURCE_DIR "/examples/r1-nano/tokenizer.json");
  const auto base = nlohmann::json::parse(base_file);
  std::ifstream in(R1_SOURCE_DIR "/tests/runtime/tokenizer/rules.jsonl");
  std::size_t n_variants = 0;
  for (std::string line; std::getline(in, line); ++n_variants) {
    const auto variant = nlohmann::json::parse(line);
    const auto& replace = variant["replace"];
    CAPTURE(replace.dump());
    auto json = base;
    for (const auto& [key, value] : replace.items()) {
      if (key == "merges") {
        json["model"]["merges"] = change_merges(base["model"]["merges"], value);
      } else if (key == "more_added_tokens") {
        for (const auto& token : value) json["added_tokens"].push_back(token);
      } else if (key == "model") {
        json["model"].update(value);
      } else {
        json[key] = value;
      }
    }
    const auto tokenizer = rt::parse_tokenizer(json.dump(), "", "tokenizer.json");
    REQUIRE_MESSAGE(tokenizer.ok(), (tokenizer.ok() ? "" : tokenizer.error().text()));
    for (const auto& text_and_ids : variant["cases"]) {
      const std::string text = text_and_ids[0];
      CAPTURE(text);
      const auto ids = replace.contains("post_processor")
                           ? (*tokenizer)->encode_with_special(text, SpecialTokens::parsed)
                           : (*tokenizer)->encode(text, SpecialTokens::parsed);
      REQUIRE(ids.ok());
      CHECK(*ids == text_and_ids[1].get<std::vector<Token>>());
    }
  }
  CHECK(n_variants == 153);
}
