// The real tokenizers against the ids of the reference implementation.
#include <doctest/doctest.h>
#include <r1/tokenizer.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

using namespace r1;

namespace {

const std::string fixtures = R1_FIXTURES;

std::vector<nlohmann::json> read_jsonl(const std::string& path) {
  std::ifstream in(path);
  REQUIRE_MESSAGE(in.good(), path);
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(in, line);) {
    if (!line.empty()) lines.push_back(nlohmann::json::parse(line));
  }
  return lines;
}

std::shared_ptr<const Tokenizer> load(const std::string& path) {
  auto tokenizer = Tokenizer::load(fixtures + path);
  REQUIRE_MESSAGE(tokenizer.ok(), (tokenizer.ok() ? "" : tokenizer.error().text()));
  return *tokenizer;
}

void check_ids(const std::string& tokenizer_path, const std::string& golden) {
  const auto tokenizer = load(tokenizer_path);
  std::map<std::string, std::string> texts;
  for (const auto& line : read_jsonl(fixtures + "/tokenizer/texts.jsonl")) texts[line["id"]] = line["text"];
  REQUIRE(texts.size() == 700);
  std::size_t n_checked = 0;
  for (const auto& line : read_jsonl(fixtures + "/tokenizer/" + golden + ".jsonl")) {
    const std::string id = line["id"];
    CAPTURE(golden);
    CAPTURE(id);
    const std::string& text = texts.at(id);
    const auto parsed = tokenizer->encode(text, SpecialTokens::parsed),
               literal = tokenizer->encode(text, SpecialTokens::literal);
    REQUIRE(parsed.ok());
    REQUIRE(literal.ok());
    CHECK(*parsed == line["parsed"].get<std::vector<Token>>());
    CHECK(*literal == line[line.contains("literal") ? "literal" : "parsed"].get<std::vector<Token>>());
    ++n_checked;
  }
  CHECK(n_checked == 700);
}

void check_streaming(const std::string& tokenizer_path, const std::string& golden) {
  const auto tokenizer = load(tokenizer_path);
  std::size_t n_checked = 0;
  for (const auto& line : read_jsonl(fixtures + "/tokenizer/" + golden + ".streaming.jsonl")) {
    CAPTURE(line["id"].get<std::string>());
    const auto ids = line["ids"].get<std::vector<Token>>();
    const auto pieces = line["pieces"].get<std::vector<std::string>>();
    REQUIRE(pieces.size() >= ids.size());
    StreamDecoder decoder(tokenizer, true);
    for (std::size_t i = 0; i < ids.size(); ++i) CHECK(decoder.push(ids[i]) == pieces[i]);
    const std::string rest = decoder.finish();
    CHECK(rest == (pieces.size() > ids.size() ? pieces.back() : std::string()));
    ++n_checked;
  }
  CHECK(n_checked > 50);
}

}  // namespace

TEST_CASE("ids of DeepSeek-R1 and V3") {
  check_ids("/tokenizers/DeepSeek-R1", "deepseek-r1");
  check_ids("/tokenizers/DeepSeek-V3", "deepseek-v3");
}

TEST_CASE("ids of R1-Distill-Qwen, Qwen2.5 and Qwen3") {
  check_ids("/tokenizers/DeepSeek-R1-Distill-Qwen-1.5B", "r1-distill-qwen");
  check_ids("/tokenizers/Qwen2.5", "qwen2.5");
  check_ids("/tokenizers/Qwen3", "qwen3");
}

TEST_CASE("ids of a Llama-3-style file") {
  check_ids("/tokenizer/llama3-style", "llama3-style");
  // Its post-processor puts one token before a text.
  const auto tokenizer = load("/tokenizer/llama3-style");
  const auto ids = tokenizer->encode_with_special("Hello", SpecialTokens::literal);
  REQUIRE(ids.ok());
  CHECK(ids->front() == 1802);
}

TEST_CASE("streamed text is never half a character") {
  check_streaming("/tokenizers/DeepSeek-R1", "deepseek-r1");
  check_streaming("/tokenizers/DeepSeek-R1-Distill-Qwen-1.5B", "r1-distill-qwen");
}

TEST_CASE("decoding gives the text back where nothing is normalized") {
  const auto tokenizer = load("/tokenizers/DeepSeek-R1");
  for (const auto& line : read_jsonl(fixtures + "/tokenizer/texts.jsonl")) {
    const std::string text = line["text"];
    const auto ids = tokenizer->encode(text, SpecialTokens::literal);
    REQUIRE(ids.ok());
    CHECK(tokenizer->decode(*ids, true) == text);
  }
}
