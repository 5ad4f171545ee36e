// How much memory the control groups of this process still allow: in a container, less than the machine has.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace r1::numa {

// Where the kernel tells it; other folders in tests.
struct CgroupFiles {
  std::string self = "/proc/self/cgroup";
  std::string root = "/sys/fs/cgroup";  // v2; v1 has its memory controller in root/memory
};

// The least of limit − usage over the group and all above it, where page cache counts as free: it gives way. Nothing
// where no group sets a limit. cgroup v2 and v1 (Linux, Documentation/admin-guide/cgroup-v2.rst and
// cgroup-v1/memory.rst).
[[nodiscard]] std::optional<std::uint64_t> cgroup_memory_available_bytes(const CgroupFiles& files = {});

}  // namespace r1::numa
