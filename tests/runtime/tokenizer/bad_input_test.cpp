// Texts and files that nobody should send.
#include <doctest/doctest.h>
#include <r1/tokenizer.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "runtime/tokenizer/tokenizer_impl.h"

using namespace r1;

namespace {

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

std::shared_ptr<const Tokenizer> nano() {
  auto tokenizer = Tokenizer::load(R1_SOURCE_DIR "/examples/r1-nano");
  REQUIRE(tokenizer.ok());
  return *tokenizer;
}

// A tokenizer.json with one thing changed.
nlohmann::json small() {
  return nlohmann::json::parse(R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    "added_tokens": [{"id": 3, "content": "<s>", "special": true}], "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}})");
}

std::string error_of(const nlohmann::json& json) {
  const auto result = rt::parse_tokenizer(json.dump(), "", "tokenizer.json");
  return result.ok() ? "" : result.error().text();
}

}  // namespace

TEST_CASE("invalid UTF-8 is refused by byte") {
  const auto tokenizer = nano();
  std::ifstream in(R1_FIXTURES "/tokenizer/invalid_utf8.jsonl");
  int n = 0;
  for (std::string line; std::getline(in, line); ++n) {
    const auto ids = tokenizer->encode(from_hex(nlohmann::json::parse(line)["hex"]), SpecialTokens::literal);
    REQUIRE_FALSE(ids.ok());
    CHECK(ids.error().text().find("byte") != std::string::npos);
  }
  CHECK(n >= 5);
  CHECK(tokenizer->encode("ab\xff", SpecialTokens::parsed).error().text().find("byte 2") != std::string::npos);
}

TEST_CASE("NUL, long words and long rows of everything") {
  const auto tokenizer = nano();
  const std::string nul("a\0b", 3);
  CHECK(tokenizer->decode(*tokenizer->encode(nul, SpecialTokens::literal), true) == nul);
  for (const std::string& unit : {std::string("a"), std::string(" "), std::string("\n"), std::string("1"),
                                  std::string("<"), std::string("好"), std::string("e\xcc\x81"), std::string("!")}) {
    CAPTURE(unit);
    std::string text;
    while (text.size() < 200000) text += unit;
    const auto ids = tokenizer->encode(text, SpecialTokens::parsed);
    REQUIRE(ids.ok());
    CHECK(tokenizer->decode(*ids, true) == text);
  }
}

TEST_CASE("text that looks like a special token is only text where it must be") {
  const auto tokenizer = nano();
  const std::string text = "<｜User｜>";
  CHECK(tokenizer->encode(text, SpecialTokens::parsed)->size() == 1);
  const auto literal = tokenizer->encode(text, SpecialTokens::literal);
  CHECK(literal->size() > 1);
  for (const Token id : *literal) CHECK_FALSE(tokenizer->is_special(id));
  CHECK(tokenizer->decode(*literal) == text);
}

TEST_CASE("broken files are refused by what is wrong with them") {
  CHECK(error_of(small()).empty());
  auto json = small();
  json["model"]["merges"] = {"a c"};
  CHECK(error_of(json).find("merge 0: c is not in the vocabulary") != std::string::npos);
  json["model"]["merges"] = {"ab a"};
  CHECK(error_of(json).find("aba") != std::string::npos);
  json["model"]["merges"] = {"a b c"};
  CHECK(error_of(json).find("merge 0") != std::string::npos);
  json["model"]["merges"] = {7};
  CHECK(error_of(json).find("merge 0") != std::string::npos);
  json = small();
  json["model"]["vocab"]["b"] = 0;
  CHECK(error_of(json).find("twice") != std::string::npos);
  json["model"]["vocab"]["b"] = -1;
  CHECK(error_of(json).find("vocab") != std::string::npos);
  json["model"]["vocab"]["b"] = 4294967296;
  CHECK(error_of(json).find("vocab") != std::string::npos);
  json["model"]["vocab"] = "x";
  CHECK(error_of(json).find("vocab") != std::string::npos);
  json = small();
  json["added_tokens"].push_back(json["added_tokens"][0]);
  CHECK(error_of(json).find("twice") != std::string::npos);
  json = small();
  json["model"]["type"] = "Unigram";
  CHECK(error_of(json).find("Unigram") != std::string::npos);
  json = small();
  json["normalizer"] = {{"type", "NFKC"}};
  CHECK(error_of(json).find("NFKC") != std::string::npos);
  json = small();
  json["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "(["}}}, {"behavior", "Isolated"}};
  CHECK(error_of(json).find("pattern") != std::string::npos);
  json["pre_tokenizer"] = {{"type", "Metaspace"}};
  CHECK(error_of(json).find("Metaspace") != std::string::npos);
  CHECK_FALSE(rt::parse_tokenizer("", "", "x").ok());
  CHECK_FALSE(rt::parse_tokenizer("{\"model\":", "", "x").ok());
  CHECK_FALSE(rt::parse_tokenizer(std::string(100000, '['), "", "x").ok());
  CHECK_FALSE(Tokenizer::load("/nonexistent/tokenizer.json").ok());
  // A byte the vocabulary lacks is an error, not a guess.
  const auto tokenizer = rt::parse_tokenizer(small().dump(), "", "x");
  CHECK_FALSE((*tokenizer)->encode("c", SpecialTokens::literal).ok());
  CHECK(*(*tokenizer)->encode("ab<s>b", SpecialTokens::parsed) == std::vector<Token>{2, 3, 1});
}
