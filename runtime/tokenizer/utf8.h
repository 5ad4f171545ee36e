// UTF-8: validation, and the lossy reading that streaming needs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace r1::rt {

// Length of the well-formed character that `text` starts with (Unicode, table 3-7), or 0 if there is none.
// *maximal_subpart: how many bytes an ill-formed start covers; *truncated: all of text could still become a character.
[[nodiscard]] std::size_t utf8_character(std::string_view text, std::size_t* maximal_subpart, bool* truncated);

// First byte that is not part of well-formed UTF-8, or npos.
[[nodiscard]] std::size_t first_invalid_utf8(std::string_view text);

}  // namespace r1::rt
