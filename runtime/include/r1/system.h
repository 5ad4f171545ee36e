// What this machine is and what the library makes of it: the facts behind `r1 doctor`.
#pragma once

#include <r1/result.h>

#include <cstdint>
#include <string>
#include <vector>

namespace r1 {

struct KernelChoice {
  std::string isa;
  bool used = false;
  std::string reason;  // "used", "supported", "CPU lacks avx512_vbmi"
};

struct SystemNode {
  int os_index = 0, n_cores = 0;
  std::uint64_t memory_bytes = 0;
};

struct SystemReport {
  std::string version, cpu_name;
  int n_packages = 0, n_cores = 0, n_threads = 0;
  double cpu_quota = 0;    // cores' worth of time that control groups allow this process; 0: no limit
  int n_team_threads = 0;  // what a session uses if it is not told
  std::vector<SystemNode> nodes;
  std::uint64_t memory_bytes = 0, memory_available_bytes = 0;
  std::uint64_t l2_bytes = 0, l3_bytes = 0;
  std::string transparent_huge_pages;
  std::vector<KernelChoice> kernels;  // best first
  double read_bytes_per_s = 0;        // measured
  int read_threads = 0;
  std::string disk_path;
  std::uint64_t disk_free_bytes = 0;
  double disk_read_bytes_per_s = 0;  // measured without the page cache where the file system allows; 0: not measured
  std::string disk_note;
};

struct SystemOptions {
  std::string isa;  // override, as in ModelOptions
  std::string disk_path = ".";
  bool measure = true;
};

[[nodiscard]] Result<SystemReport> inspect_system(const SystemOptions& options = {});
[[nodiscard]] const char* version();

}  // namespace r1
