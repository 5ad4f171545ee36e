// Internal to numa/: the control groups this process is in, v1 and v2.
#pragma once

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

#include "numa/limits.h"

namespace r1::numa {

// Nothing if the file is not there or says "max".
template <class T>
std::optional<T> number_in(const std::string& path) {
  std::ifstream in(path);
  T value = 0;
  if (in >> value) return value;
  return std::nullopt;
}

inline bool has_controller(const std::string& list, const std::string& name) {
  std::istringstream in(list);
  for (std::string entry; std::getline(in, entry, ',');) {
    if (entry == name) return true;
  }
  return false;
}

// The least limit_in(folder, is_v2) over the groups of this process that `controller` may limit: of each hierarchy, the
// process's own and all above it. In a container, paths may be the host's, and only the root is there.
template <class LimitIn>
auto least_limit(const CgroupFiles& files, const std::string& controller, LimitIn&& limit_in) {
  decltype(limit_in(std::string(), true)) least;
  // A line per hierarchy: "number:controllers:path", without controllers in v2.
  std::ifstream in(files.self);
  for (std::string line; std::getline(in, line);) {
    const std::size_t first = line.find(':'), second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    const bool is_v2 = controllers.empty();
    if (!path.starts_with('/') || (!is_v2 && !has_controller(controllers, controller))) continue;
    const std::string root = is_v2 ? files.root : files.root + "/" + controller;
    for (;;) {
      while (path.ends_with('/')) path.pop_back();
      if (const auto here = limit_in(root + path, is_v2)) least = std::min(*here, least.value_or(*here));
      if (path.empty()) break;
      path.resize(std::min(path.size(), path.rfind('/')));
    }
  }
  return least;
}

}  // namespace r1::numa
