#include <algorithm>
#include <fstream>

#include "numa/cgroups.h"

namespace r1::numa {
namespace {

// What the two versions call the same things.
struct Names {
  const char *limit, *usage, *active_file, *inactive_file;
};
constexpr Names v2 = {"memory.max", "memory.current", "active_file", "inactive_file"};
constexpr Names v1 = {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_active_file", "total_inactive_file"};

std::uint64_t page_cache_bytes(const std::string& folder, const Names& names) {
  std::ifstream in(folder + "/memory.stat");
  std::uint64_t sum = 0, value = 0;
  for (std::string name; in >> name >> value;) {
    if (name == names.active_file || name == names.inactive_file) sum += value;
  }
  return sum;
}

// One group. v1 says "no limit" by a number near 2^63.
std::optional<std::uint64_t> available_in(const std::string& folder, const Names& names) {
  const auto limit = number_in<std::uint64_t>(folder + "/" + names.limit),
             usage = number_in<std::uint64_t>(folder + "/" + names.usage);
  if (!limit || !usage || *limit >= std::uint64_t{1} << 60) return std::nullopt;
  const std::uint64_t held = *usage - std::min(*usage, page_cache_bytes(folder, names));
  return *limit - std::min(*limit, held);
}

}  // namespace

std::optional<std::uint64_t> cgroup_memory_available_bytes(const CgroupFiles& files) {
  return least_limit(files, "memory",
                     [](const std::string& folder, bool is_v2) { return available_in(folder, is_v2 ? v2 : v1); });
}

}  // namespace r1::numa
