// Byte-pair encoding over ids: the vocabulary as bytes, merges as pairs of ids with ranks.
#pragma once

#include <r1/result.h>
#include <r1/types.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizer/tokenizer_file.h"

namespace r1::rt {

class Bpe {
 public:
  // Takes the tables of `file`.
  static Result<Bpe> make(TokenizerFile& file, const std::string& where);

  // Appends the ids of one piece. Time grows as n log n with its length.
  [[nodiscard]] Result<void> encode(std::string_view piece, std::vector<Token>& ids) const;

  [[nodiscard]] std::optional<std::string_view> bytes(Token id) const { return bytes_.at(id); }
  // As the file writes it.
  [[nodiscard]] std::optional<std::string_view> text(Token id) const { return texts_.at(id); }
  [[nodiscard]] std::optional<Token> find_text(std::string_view text) const { return texts_.find(text); }
  [[nodiscard]] Token end_id() const { return texts_.end_id(); }

 private:
  struct Merge {
    std::uint64_t pair = no_pair;  // left id << 32 | right id
    std::uint32_t rank = no_rank;
    Token id = -1;
  };
  static constexpr std::uint64_t no_pair = UINT64_MAX;
  static constexpr std::uint32_t no_rank = UINT32_MAX;
  // Whether merging a token's bytes gives the token: then a piece that is a token needs no merging. Learnt when a piece
  // is met first; any thread may write, and all write the same.
  enum : std::uint8_t { unknown, itself, others };

  Result<void> add_merges(const TokenizerFile& file, const std::string& where);
  [[nodiscard]] const Merge& find_merge(Token left, Token right) const;
  [[nodiscard]] std::size_t slot_of(std::uint64_t pair) const;
  void merge_short(std::string_view piece, std::vector<Token>& ids) const;
  void merge_long(std::string_view piece, std::vector<Token>& ids) const;

  TokenStrings texts_, bytes_;
  std::vector<Merge> merges_;  // open addressing, a power of two
  std::array<Token, 256> id_of_byte_{};
  std::unique_ptr<std::atomic<std::uint8_t>[]> merges_to_itself_;  // by id
  bool ignore_merges_ = false;
};

}  // namespace r1::rt
