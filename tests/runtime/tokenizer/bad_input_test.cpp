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
  // The part of the file, what it becomes, and what the error must say.
  struct Broken {
    const char *pointer, *value, *expected;
  };
  const Broken cases[] = {
      {"/model", "7", "model: must be an object"},
      {"/model/type", R"("Unigram")", "type Unigram is not supported"},
      {"/model/dropout", "0.1", "dropout"},
      {"/model/byte_fallback", "true", "byte_fallback"},
      {"/model/merges", R"(["a c"])", "merge 0: c is not in the vocabulary"},
      {"/model/merges", R"([["a", "b"], ["ab", "a"]])", "merge 1: aba is not in the vocabulary"},
      {"/model/merges", R"(["a b c"])", "merge 0: must be two tokens"},
      {"/model/merges", R"(["ab"])", "merge 0: must be two tokens"},
      {"/model/merges", R"(["a b", ["a"]])", "merge 1: must be two tokens"},
      {"/model/merges", R"(["a b", ["a", "b", "c"]])", "must be two tokens"},
      {"/model/merges", R"(["a b", ["a", ["b"]]])", "merge 1: must be two tokens"},
      {"/model/merges", R"([7])", "merge 0: must be two tokens"},
      {"/model/merges", R"({"a": "b"})", "merges: must be a list"},
      {"/model/vocab", R"("x")", "vocab: must be an object"},
      {"/model/vocab", R"(["a"])", "vocab: must be an object"},
      {"/model/vocab/b", "0", "vocab: id 0 is given twice, the second time to b"},
      {"/model/vocab/b", "-1", "the id of b is not an integer"},
      {"/model/vocab/b", "1.5", "the id of b is not an integer"},
      {"/model/vocab/b", "2147483648", "the id of b is not an integer"},
      {"/model/vocab/b", "18446744073709551616", "the id of b is not an integer"},
      {"/model/vocab/b", R"("1")", "the id of b is not an integer"},
      {"/model/vocab/b", R"({"id": 1})", "the id of b is not an integer"},
      {"/added_tokens", "{}", "added_tokens: must be a list"},
      {"/added_tokens/0", "7", "added token 0"},
      {"/added_tokens/0/id", "2147483648", "id: 2147483648 is outside"},
      {"/added_tokens/0/id", "0", "added token <s> has id 0, but in the vocabulary id 0 is a"},
      {"/added_tokens/0/content", R"("b")", "added token b has id 3, but in the vocabulary b is id 1"},
      {"/added_tokens/0/content", R"("")", "content: must be 1"},
      {"/added_tokens/1", R"({"id": 3, "content": "<t>"})", "added token 1: id: 3 is given twice"},
      {"/added_tokens/1", R"({"id": 4, "content": "<s>"})", "added token 1: content: <s> is given twice"},
      {"/normalizer", R"({"type": "NFKC"})", "normalizer: type NFKC is not supported"},
      {"/normalizer", R"({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]})", "type Lowercase"},
      {"/pre_tokenizer", "null", "ByteLevel"},
      {"/pre_tokenizer", R"({"type": "Metaspace"})", "type Metaspace is not supported"},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "(["}})", "pattern"},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "[a&&[b]]"}})", "intersection of classes"},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Eaten"})", "Eaten is unknown"},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": "a"})", "pattern: must be an object"},
      {"/decoder", R"({"type": "WordPiece"})", "decoder: type WordPiece is not supported"},
      {"/post_processor", R"({"type": "BertProcessing"})", "post_processor: type BertProcessing is not supported"},
      {"/post_processor", R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}]})",
       "no ids for x"},
      {"/post_processor",
       R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}], "special_tokens": {"x": {"ids": [9]}}})",
       "an id of x is no token's"},
  };
  for (const Broken& broken : cases) {
    CAPTURE(broken.pointer);
    CAPTURE(broken.value);
    auto json = small();
    json[nlohmann::json::json_pointer(broken.pointer)] = nlohmann::json::parse(broken.value);
    const std::string error = error_of(json);
    CAPTURE(error);
    CHECK(error.find(broken.expected) != std::string::npos);
    CHECK(error.find("tokenizer.json") == 0);
  }
  auto json = small();
  json["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", std::string(1 << 20, '(')}}}};
  CHECK(error_of(json).find("longer than") != std::string::npos);
  json["pre_tokenizer"]["pattern"]["Regex"] = std::string(60000, '(');
  CHECK(error_of(json).find("pattern") != std::string::npos);

  const auto error_of_text = [](const std::string& text) {
    const auto result = rt::parse_tokenizer(text, "", "x");
    return result.ok() ? "" : result.error().text();
  };
  CHECK(error_of_text("").find("is not JSON") != std::string::npos);
  CHECK(error_of_text("7").find("x: is not a JSON object") == 0);
  CHECK(error_of_text("{\"model\":").find("is not JSON") != std::string::npos);
  CHECK(error_of_text("{\"a\": \"\xff\"}") == "x: byte 7: is not UTF-8");
  CHECK(error_of_text(std::string(100000, '[')).find("nests deeper") != std::string::npos);
  CHECK(error_of_text(R"({"model": {"vocab": {"a": 0, "a": 1}}})").find("a is given twice") != std::string::npos);
  CHECK(error_of_text(R"({"model": {"vocab": {}, "vocab": {}}})").find("is given twice") != std::string::npos);
  CHECK(error_of_text(R"({"model": {"merges": [], "merges": []}})").find("given twice") != std::string::npos);
  CHECK(rt::parse_tokenizer(small().dump(), "{", "x").error().text().find("tokenizer_config.json") !=
        std::string::npos);
  const auto missing = Tokenizer::load("/nonexistent/tokenizer.json");
  REQUIRE_FALSE(missing.ok());
  CHECK(missing.error().text().find("/nonexistent/tokenizer.json") != std::string::npos);

  // A byte the vocabulary lacks is an error, not a guess.
  const auto tokenizer = rt::parse_tokenizer(small().dump(), "", "x");
  CHECK_FALSE((*tokenizer)->encode("c", SpecialTokens::literal).ok());
  CHECK(*(*tokenizer)->encode("ab<s>b", SpecialTokens::parsed) == std::vector<Token>{2, 3, 1});
}

TEST_CASE("a pattern that backtracks without end is an error, not a hang") {
  auto json = small();
  json["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"}, {"pattern", {{"Regex", "(a|a|b)*c|(?:(?:a+)+)+$"}}}, {"behavior", "Isolated"}},
        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
  const auto tokenizer = rt::parse_tokenizer(json.dump(), "", "x");
  REQUIRE(tokenizer.ok());
  const auto ids = (*tokenizer)->encode(std::string(100000, 'a') + "b", SpecialTokens::literal);
  REQUIRE_FALSE(ids.ok());
  CHECK(ids.error().text().find("pattern cannot split this text") != std::string::npos);
  CHECK((*tokenizer)->encode("abab", SpecialTokens::literal).ok());
}

TEST_CASE("no damage to a file crashes the reader") {
  // Every value of the file in turn becomes each of these.
  auto whole = small();
  whole["post_processor"] = nlohmann::json::parse(
      R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}}],
          "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}}})");
  whole["pre_tokenizer"] = nlohmann::json::parse(
      R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Isolated"},
          {"type": "Digits", "individual_digits": true}, {"type": "ByteLevel", "use_regex": true}]})");
  whole["normalizer"] = nlohmann::json::parse(R"({"type": "Sequence", "normalizers": [{"type": "NFC"}]})");
  whole["decoder"] = nlohmann::json::parse(R"({"type": "ByteLevel"})");
  REQUIRE(error_of(whole) == "");
  const auto flat = whole.flatten();
  std::size_t n_refused = 0, n_accepted = 0;
  const auto try_text = [&](const std::string& text) {
    const auto tokenizer = rt::parse_tokenizer(text, text, "x");
    if (!tokenizer) {
      CHECK_FALSE(tokenizer.error().message.empty());
      ++n_refused;
      return;
    }
    ++n_accepted;
    const auto ids = (*tokenizer)->encode_with_special("ab <s> 12", SpecialTokens::parsed);
    if (ids) CHECK((*tokenizer)->decode(*ids, true).size() < 100);
  };
  for (const char* damage : {"null", "true", "-1", "4294967296", "1e300", "\"\"", "\"x\"", "[]", "{}", "[[[]]]"}) {
    for (const auto& [pointer, unused] : flat.items()) {
      for (auto at = nlohmann::json::json_pointer(pointer); !at.empty(); at.pop_back()) {
        auto damaged = whole;
        damaged[at] = nlohmann::json::parse(damage);
        try_text(damaged.dump());
      }
    }
  }
  const std::string text = whole.dump();
  for (std::size_t length = 0; length < text.size(); ++length) try_text(text.substr(0, length));
  for (std::size_t i = 0; i < 8 * text.size(); ++i) {
    std::string flipped = text;
    flipped[i / 8] = static_cast<char>(flipped[i / 8] ^ 1 << i % 8);
    try_text(flipped);
  }
  CHECK(n_refused > 3000);
  CHECK(n_accepted > 100);
}
