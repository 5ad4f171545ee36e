#include "runtime/tokenizer/byte_level.h"

#include <array>
#include <cstdint>

namespace r1::rt {
namespace {

// Printable Latin-1 bytes stand for themselves; the others, in order, for U+0100 and on. All lie below U+0144.
constexpr std::array<std::int16_t, 0x144> make_byte_of_character() {
  std::array<std::int16_t, 0x144> table{};
  for (auto& entry : table) entry = -1;
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    table[static_cast<std::size_t>(printable ? byte : next++)] = static_cast<std::int16_t>(byte);
  }
  return table;
}
constexpr auto byte_of_character = make_byte_of_character();

}  // namespace

std::optional<std::string> bytes_of_token_text(std::string_view text) {
  std::string bytes;
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::uint32_t character = static_cast<std::uint8_t>(text[i]);
    if (character >= 0x80) {  // two bytes at most: U+0080 … U+0143
      if (character < 0xc2 || character > 0xc5 || i + 1 == text.size()) return std::nullopt;
      const auto second = static_cast<std::uint8_t>(text[++i]);
      if ((second & 0xc0) != 0x80) return std::nullopt;
      character = (character & 0x1f) << 6 | (second & 0x3fu);
    }
    if (character >= byte_of_character.size() || byte_of_character[character] < 0) return std::nullopt;
    bytes += static_cast<char>(byte_of_character[character]);
  }
  return bytes;
}

}  // namespace r1::rt
