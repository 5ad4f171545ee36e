// What the control groups of this process allow: in a container, less than the machine has. cgroup v2 and v1 (Linux,
// Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst, scheduler/sched-bwc.rst).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace r1::numa {

// Where the kernel tells it; other folders in tests.
struct CgroupFiles {
  std::string self = "/proc/self/cgroup";
  std::string root = "/sys/fs/cgroup";  // v2; v1 has its controllers in root/memory and root/cpu
};

// The least of limit − usage over the group and all above it, where page cache counts as free: it gives way. Nothing
// where no group sets a limit.
[[nodiscard]] std::optional<std::uint64_t> cgroup_memory_available_bytes(const CgroupFiles& files = {});

// Seconds of processor per second, the least over the group and all above it. Nothing where no group sets a limit.
[[nodiscard]] std::optional<double> cgroup_cpu_quota(const CgroupFiles& files = {});

// How many threads of n_cores stay within the quota. Whole cores: a team of one more is stopped together for the rest
// of every period, and r1-nano gains nothing by it (two threads against one: 0.90 with a quota of 1, 1.06 with 1.3,
// 1.02 with 1.5).
[[nodiscard]] int threads_within(std::optional<double> cpu_quota, int n_cores);

}  // namespace r1::numa
