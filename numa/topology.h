// What the machine has, from hwloc and /proc: cores, nodes, memory, huge pages; what it reads per second, measured.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace r1::numa {

struct Node {
  int os_index = 0;
  std::uint64_t memory_bytes = 0;
  int n_cores = 0;
};

struct Topology {
  int n_packages = 0;
  int n_cores = 0;         // physical cores that this process may use
  int n_threads = 0;       // hardware threads that this process may use
  double cpu_quota = 0;    // cores' worth of time that control groups allow this process; 0: no limit
  int n_team_threads = 0;  // of a team that is not told: the cores, as many as the quota allows
  std::vector<Node> nodes;
  std::uint64_t memory_bytes = 0;
  std::uint64_t memory_available_bytes = 0;  // to this process: in a container, what its control groups allow
  std::uint64_t l2_bytes = 0, l3_bytes = 0;  // one instance
  std::string cpu_name;
  std::string transparent_huge_pages;  // "always", "madvise", "never", or "" where unknown
};

[[nodiscard]] Topology read_topology();

// Reads [p, p + bytes) once, to whole 256 bytes, as fast as loads allow; p is aligned to 32. The value depends on all
// that was read.
[[nodiscard]] std::uint64_t read_bytes(const std::byte* p, std::size_t bytes);

// Sequential reads of `bytes` of memory by n_threads threads; the best of several passes.
[[nodiscard]] double measure_read_bandwidth_bytes_per_s(int n_threads, std::uint64_t bytes);

}  // namespace r1::numa
