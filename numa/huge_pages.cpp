#include "numa/huge_pages.h"

#include <algorithm>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>

namespace r1::numa {

double huge_page_share(std::span<const std::byte* const> addresses) {
  if (addresses.empty()) return 0;
  unsigned sum = 0;
  for (const std::byte* address : addresses) {
    sum += static_cast<unsigned>(*const_cast<const volatile std::byte*>(address));
  }
  [[maybe_unused]] volatile unsigned keep = sum;

  // /proc/self/smaps: a line "begin-end …" per mapping, then its counts in kB.
  std::ifstream in("/proc/self/smaps");
  std::uint64_t n_here = 0, n_huge = 0;  // addresses in the mapping at hand; in huge pages, of all
  for (std::string line; std::getline(in, line);) {
    std::uint64_t begin = 0, end = 0, kib = 0;
    if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " ", &begin, &end) == 2) {
      n_here = static_cast<std::uint64_t>(std::count_if(addresses.begin(), addresses.end(), [&](const std::byte* p) {
        const auto at = reinterpret_cast<std::uintptr_t>(p);
        return at >= begin && at < end;
      }));
    } else if (n_here > 0 && (std::sscanf(line.c_str(), "FilePmdMapped: %" SCNu64, &kib) == 1 ||
                              std::sscanf(line.c_str(), "AnonHugePages: %" SCNu64, &kib) == 1)) {
      n_huge += std::min(n_here, kib / 2048);
    }
  }
  return static_cast<double>(std::min<std::uint64_t>(n_huge, addresses.size())) / static_cast<double>(addresses.size());
}

}  // namespace r1::numa
