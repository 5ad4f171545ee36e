// Sizes as people write them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace r1::rt {

// "8GiB", "512 MiB", "1.5GB", "1e9", "4096": binary and decimal units, any case; nullopt if it is not a size of 1 …
// 2^62 bytes.
[[nodiscard]] std::optional<std::uint64_t> parse_bytes(std::string_view text);

}  // namespace r1::rt
