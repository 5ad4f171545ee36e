// Byte-pair encoding over ids: the vocabulary as bytes, merges as pairs of ids with ranks.
#pragma once

#include <r1/result.h>
#include <r1/types.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/io/json.h"

namespace r1::rt {

class Bpe {
 public:
  static Result<Bpe> load(const Json& model, const std::string& where);

  // Appends the ids of one piece. Time grows as n log n with its length.
  [[nodiscard]] Result<void> encode(std::string_view piece, std::vector<Token>& ids) const;

  [[nodiscard]] const std::string* bytes(Token id) const;                     // null if no entry has this id
  [[nodiscard]] std::optional<Token> find_text(std::string_view text) const;  // as the file writes it
  [[nodiscard]] Token max_id() const { return static_cast<Token>(bytes_.size()) - 1; }

 private:
  struct Merge {
    std::uint32_t rank;
    Token id;
  };
  [[nodiscard]] const Merge* find_merge(Token left, Token right) const;

  std::vector<std::string> bytes_;  // by id
  std::vector<char> present_;
  std::unordered_map<std::string, Token> id_of_text_, id_of_bytes_;
  std::unordered_map<std::uint64_t, Merge> merges_;
  std::array<Token, 256> id_of_byte_{};
  bool ignore_merges_ = false;
};

}  // namespace r1::rt
