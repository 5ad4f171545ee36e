// Tokens that are recognised as they stand, before the vocabulary is asked.
#pragma once

#include <r1/result.h>
#include <r1/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/io/json.h"

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
  static Result<AddedTokens> load(const Json* list, const std::string& where);

  // Cuts `text` at the tokens with this `normalized`: leftmost first, of those the longest.
  [[nodiscard]] std::vector<Segment> split(std::string_view text, bool normalized) const;
  [[nodiscard]] const AddedToken* find(Token id) const;
  [[nodiscard]] const AddedToken* find(std::string_view content) const;
  [[nodiscard]] Token max_id() const { return by_id_.empty() ? -1 : by_id_.rbegin()->first; }

 private:
  struct Node {
    std::map<std::uint8_t, std::uint32_t> next;
    std::int32_t token = -1;  // index into tokens_
  };
  [[nodiscard]] std::int32_t longest_match(std::string_view text, std::size_t at, bool normalized) const;

  std::vector<AddedToken> tokens_;
  std::map<Token, std::size_t> by_id_;
  std::map<std::string, std::size_t, std::less<>> by_content_;
  std::vector<Node> tries_[2];  // [normalized]
};

}  // namespace r1::rt
