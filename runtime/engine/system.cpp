#include <r1/system.h>

#include <algorithm>
#include <cstdlib>

#include "numa/topology.h"
#include "runtime/engine/disk_speed.h"
#include "simd/kernels.h"

namespace r1 {
namespace {

// Enough that no cache holds it, and little enough that a small machine has it to spare.
std::uint64_t bandwidth_test_bytes(const numa::Topology& topology) {
  const std::uint64_t packages = static_cast<std::uint64_t>(std::max(topology.n_packages, 1));
  const std::uint64_t wanted = std::max<std::uint64_t>(1u << 30, 4 * topology.l3_bytes * packages);
  return std::min(wanted, topology.memory_available_bytes / 4);
}

}  // namespace

const char* version() {
  return R1_VERSION;
}

Result<SystemReport> inspect_system(const SystemOptions& options) {
  std::string isa = options.isa;
  if (const char* from_environment = std::getenv("R1_ISA"); isa.empty() && from_environment != nullptr) {
    isa = from_environment;
  }
  std::string why;
  if (simd::choose_kernels(isa, &why) == nullptr) {
    return Error{ErrorCode::invalid_argument, why, options.isa.empty() ? "R1_ISA" : "isa"};
  }

  SystemReport report;
  report.version = version();
  for (const simd::IsaReport& entry : simd::isa_report(isa)) {
    report.kernels.push_back({simd::isa_name(entry.isa), entry.reason == "used", entry.reason});
  }

  const numa::Topology topology = numa::read_topology();
  report.cpu_name = topology.cpu_name;
  report.n_packages = topology.n_packages;
  report.n_cores = topology.n_cores;
  report.n_threads = topology.n_threads;
  report.cpu_quota = topology.cpu_quota;
  report.n_team_threads = topology.n_team_threads;
  for (const numa::Node& node : topology.nodes) {
    report.nodes.push_back({node.os_index, node.n_cores, node.memory_bytes});
  }
  report.memory_bytes = topology.memory_bytes;
  report.memory_available_bytes = topology.memory_available_bytes;
  report.l2_bytes = topology.l2_bytes;
  report.l3_bytes = topology.l3_bytes;
  report.transparent_huge_pages = topology.transparent_huge_pages;
  if (options.measure) {
    report.read_threads = topology.n_team_threads;
    report.read_bytes_per_s =
        numa::measure_read_bandwidth_bytes_per_s(report.read_threads, bandwidth_test_bytes(topology));
  }

  const rt::DiskSpeed disk = rt::measure_disk(options.disk_path, options.measure);
  report.disk_path = options.disk_path;
  report.disk_free_bytes = disk.free_bytes;
  report.disk_read_bytes_per_s = disk.read_bytes_per_s;
  report.disk_note = disk.note;
  return report;
}

}  // namespace r1
