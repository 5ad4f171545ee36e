// The byte-level alphabet of GPT-2's tokenizer: every byte as a printable character.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace r1::rt {

// "Ġthe" → " the"; nullopt if a character stands for no byte.
[[nodiscard]] std::optional<std::string> bytes_of_token_text(std::string_view text);

}  // namespace r1::rt
