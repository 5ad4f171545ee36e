#include "numa/memory_limit.h"

#include <algorithm>
#include <fstream>
#include <initializer_list>
#include <sstream>

namespace r1::numa {
namespace {

// What the two versions call the same things.
struct Names {
  const char *limit, *usage, *active_file, *inactive_file;
};
constexpr Names v2 = {"memory.max", "memory.current", "active_file", "inactive_file"};
constexpr Names v1 = {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_active_file", "total_inactive_file"};

// Nothing if the file is not there or says "max".
std::optional<std::uint64_t> number_in(const std::string& path) {
  std::ifstream in(path);
  std::uint64_t value = 0;
  if (in >> value) return value;
  return std::nullopt;
}

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
  const auto limit = number_in(folder + "/" + names.limit), usage = number_in(folder + "/" + names.usage);
  if (!limit || !usage || *limit >= std::uint64_t{1} << 60) return std::nullopt;
  const std::uint64_t held = *usage - std::min(*usage, page_cache_bytes(folder, names));
  return *limit - std::min(*limit, held);
}

// Of the group at `path` ("/a/b") and all above it. In a container, paths may be the host's, and only the root is
// there.
std::optional<std::uint64_t> available_along(const std::string& root, std::string path, const Names& names) {
  std::optional<std::uint64_t> least;
  for (;;) {
    while (path.ends_with('/')) path.pop_back();
    if (const auto here = available_in(root + path, names)) least = std::min(*here, least.value_or(*here));
    if (path.empty()) return least;
    path.resize(std::min(path.size(), path.rfind('/')));
  }
}

bool has_controller(const std::string& list, const std::string& name) {
  std::istringstream in(list);
  for (std::string entry; std::getline(in, entry, ',');) {
    if (entry == name) return true;
  }
  return false;
}

}  // namespace

std::optional<std::uint64_t> cgroup_memory_available_bytes(const CgroupFiles& files) {
  // A line per hierarchy: "number:controllers:path", without controllers in v2.
  std::ifstream in(files.self);
  std::optional<std::uint64_t> least;
  for (std::string line; std::getline(in, line);) {
    const std::size_t first = line.find(':'), second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (!path.starts_with('/')) continue;
    std::optional<std::uint64_t> here;
    if (controllers.empty()) here = available_along(files.root, path, v2);
    if (has_controller(controllers, "memory")) here = available_along(files.root + "/memory", path, v1);
    if (here) least = std::min(*here, least.value_or(*here));
  }
  return least;
}

}  // namespace r1::numa
