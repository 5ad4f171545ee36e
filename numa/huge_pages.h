// Whether memory is in huge pages: what the kernel did, not what it was asked for.
#pragma once

#include <cstddef>
#include <span>

namespace r1::numa {

// Reads a byte at each address, so that it is mapped, and tells for which share of them by a huge page. Addresses in
// different huge pages; anonymous memory or files. 0 where the kernel does not say.
[[nodiscard]] double huge_page_share(std::span<const std::byte* const> addresses);

}  // namespace r1::numa
