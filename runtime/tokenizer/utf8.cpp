#include "runtime/tokenizer/utf8.h"

namespace r1::rt {

std::size_t utf8_character(std::string_view text, std::size_t* maximal_subpart, bool* truncated) {
  *maximal_subpart = 1;
  *truncated = false;
  if (text.empty()) return 0;
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  std::size_t length = 0;
  std::uint8_t low = 0x80, high = 0xbf;  // of the second byte: no overlong forms, no surrogates, nothing past U+10FFFF
  if (lead >= 0xc2 && lead <= 0xdf) {
    length = 2;
  } else if (lead >= 0xe0 && lead <= 0xef) {
    length = 3;
    if (lead == 0xe0) low = 0xa0;
    if (lead == 0xed) high = 0x9f;
  } else if (lead >= 0xf0 && lead <= 0xf4) {
    length = 4;
    if (lead == 0xf0) low = 0x90;
    if (lead == 0xf4) high = 0x8f;
  } else {
    return 0;
  }
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size()) {
      *maximal_subpart = i;
      *truncated = true;
      return 0;
    }
    if (byte(i) < low || byte(i) > high) {
      *maximal_subpart = i;
      return 0;
    }
    low = 0x80;
    high = 0xbf;
  }
  return length;
}

std::size_t first_invalid_utf8(std::string_view text) {
  std::size_t at = 0, subpart = 0;
  bool truncated = false;
  while (at < text.size()) {
    const std::size_t length = utf8_character(text.substr(at), &subpart, &truncated);
    if (length == 0) return at;
    at += length;
  }
  return std::string_view::npos;
}

}  // namespace r1::rt
