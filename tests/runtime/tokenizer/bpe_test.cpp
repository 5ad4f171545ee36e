// Merging against a second implementation that follows the definition word by word.
#include <doctest/doctest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "runtime/tokenizer/tokenizer_impl.h"

using namespace r1;

namespace {

// Merges the leftmost pair of the lowest rank until none is left.
std::vector<std::string> merge_by_definition(const std::string& letters,
                                             const std::map<std::pair<std::string, std::string>, int>& ranks) {
  std::vector<std::string> symbols;
  for (const char c : letters) symbols.emplace_back(1, c);
  for (;;) {
    int best_rank = INT32_MAX;
    std::size_t best = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto it = ranks.find({symbols[i], symbols[i + 1]});
      if (it != ranks.end() && it->second < best_rank) {
        best_rank = it->second;
        best = i;
      }
    }
    if (best_rank == INT32_MAX) return symbols;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

}  // namespace

TEST_CASE("short and long words merge as the definition says") {
  std::ifstream file(R1_SOURCE_DIR "/examples/r1-nano/tokenizer.json");
  const auto json = nlohmann::json::parse(file);
  std::map<std::pair<std::string, std::string>, int> ranks;
  for (const auto& merge : json["model"]["merges"]) ranks.emplace(std::pair(merge[0], merge[1]), ranks.size());
  const auto tokenizer = rt::parse_tokenizer(json.dump(), "", "x");
  REQUIRE(tokenizer.ok());
  std::mt19937 random(1);
  // Few letters, so that pairs of equal rank stand beside each other; up to far beyond what is merged without a queue.
  for (const std::string letters : {"ehtan", "abcdefghijklmnopqrstuvwxyz", "ss", "aeiourstlnd"}) {
    for (std::size_t length = 1; length < 300; length += 1 + length / 16) {
      std::string word;
      for (std::size_t i = 0; i < length; ++i) word += letters[random() % letters.size()];
      CAPTURE(word);
      std::vector<Token> expected;
      for (const auto& symbol : merge_by_definition(word, ranks)) expected.push_back(*(*tokenizer)->find(symbol));
      for (int again = 0; again < 2; ++again) {  // the second time, whole words are known
        const auto ids = (*tokenizer)->encode(word, SpecialTokens::literal);
        REQUIRE(ids.ok());
        CHECK(*ids == expected);
      }
    }
  }
}

TEST_CASE("threads share a tokenizer") {
  const auto tokenizer = Tokenizer::load(R1_SOURCE_DIR "/examples/r1-nano");
  REQUIRE(tokenizer.ok());
  std::ifstream file(R1_SOURCE_DIR "/examples/r1-nano/README.md");
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  REQUIRE(text.size() > 500);
  std::vector<std::vector<Token>> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results) {
    threads.emplace_back([&] {
      for (int i = 0; i < 5; ++i) {
        if (auto ids = (*tokenizer)->encode(text, SpecialTokens::parsed)) result = *ids;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  const auto alone = Tokenizer::load(R1_SOURCE_DIR "/examples/r1-nano");
  for (const auto& result : results) CHECK(result == *(*alone)->encode(text, SpecialTokens::parsed));
}
