// Tokens that are recognised as they stand, before the vocabulary is asked.
#pragma once

#include <r1/result.h>
#include <r1/types.h>

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/io/json.h"
#include "runtime/tokenizer/normalizer.h"

namespace r1::rt {

struct AddedToken {
  Token id = 0;
  std::string content;
  bool special = false;                 // not shown in decoded text
  bool normalized = false;              // looked for in the normalized text
  bool lstrip = false, rstrip = false;  // takes the white space on that side with it
  bool single_word = false;             // only where no word character adjoins
};

// A part of a text: a token, or what stands between tokens.
struct Segment {
  std::string_view text;
  std::optional<Token> token;
};

class AddedTokens {
 public:
  static Result<AddedTokens> load(const Json* list, const Normalizer& normalizer, const std::string& where);

  // Cuts `text` at the tokens with this `normalized`: leftmost first, of those the longest.
  [[nodiscard]] std::vector<Segment> split(std::string_view text, bool normalized) const;
  [[nodiscard]] const AddedToken* find(Token id) const;
  [[nodiscard]] const AddedToken* find(std::string_view content) const;
  [[nodiscard]] const std::vector<AddedToken>& all() const { return tokens_; }
  [[nodiscard]] Token end_id() const { return by_id_.empty() ? 0 : by_id_.rbegin()->first + 1; }  // highest id + 1

 private:
  struct Node {
    std::map<std::uint8_t, std::uint32_t> next;
    std::int32_t token = -1;  // index into tokens_
  };
  struct Trie {
    std::vector<Node> nodes{1};
    std::array<bool, 256> starts{};  // bytes that some token begins with
    void add(std::string_view text, std::int32_t token);
  };
  // The longest token that `text` has at `at`: its index, or −1; *end: where it ends.
  static std::int32_t longest_match(const Trie& trie, std::string_view text, std::size_t at, std::size_t* end);

  std::vector<AddedToken> tokens_;
  std::map<Token, std::size_t> by_id_;
  std::map<std::string, std::size_t, std::less<>> by_content_;
  Trie tries_[2];  // [normalized]
};

}  // namespace r1::rt
