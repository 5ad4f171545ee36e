// Ids and their strings, both ways; the strings lie in one block.
#pragma once

#include <r1/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace r1::rt {

// The largest id a file may name: far above any vocabulary, so that a broken file cannot ask for much memory.
inline constexpr Token max_token_id = (1 << 22) - 1;

class TokenStrings {
 public:
  // `id`: 0 … max_token_id, not set before.
  void set(Token id, std::string_view text);
  // Makes `id` the answer of find() for its string; false if another id has that string.
  bool make_findable(Token id);

  [[nodiscard]] std::optional<std::string_view> at(Token id) const;
  [[nodiscard]] std::optional<Token> find(std::string_view text) const;
  [[nodiscard]] Token end_id() const { return static_cast<Token>(spans_.size()); }  // highest id + 1
  [[nodiscard]] std::size_t size() const { return n_set_; }

 private:
  struct Span {
    std::uint32_t offset = 0, length = absent;
  };
  static constexpr std::uint32_t absent = UINT32_MAX;
  [[nodiscard]] std::string_view text_of(Token id) const;
  [[nodiscard]] std::size_t slot_of(std::string_view text) const;  // where it is, or the free slot for it
  void grow();

  std::string block_;
  std::vector<Span> spans_;   // by id
  std::vector<Token> slots_;  // open addressing, a power of two; −1: free
  std::size_t n_set_ = 0, n_findable_ = 0;
};

}  // namespace r1::rt
