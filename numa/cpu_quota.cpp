#include <algorithm>
#include <fstream>

#include "numa/cgroups.h"

namespace r1::numa {
namespace {

std::optional<double> quota_in(const std::string& folder, bool is_v2) {
  std::optional<double> quota_us, period_us;
  if (is_v2) {  // "quota period"; "max" is no quota
    std::ifstream in(folder + "/cpu.max");
    double quota = 0, period = 0;
    if (in >> quota >> period) quota_us = quota, period_us = period;
  } else {  // a quota of −1 is none
    quota_us = number_in<double>(folder + "/cpu.cfs_quota_us");
    period_us = number_in<double>(folder + "/cpu.cfs_period_us");
  }
  if (!quota_us || !period_us || !(*quota_us > 0) || !(*period_us > 0)) return std::nullopt;
  return *quota_us / *period_us;
}

}  // namespace

std::optional<double> cgroup_cpu_quota(const CgroupFiles& files) {
  return least_limit(files, "cpu", quota_in);
}

int threads_within(std::optional<double> cpu_quota, int n_cores) {
  if (!cpu_quota || *cpu_quota >= n_cores) return n_cores;
  return std::max(1, static_cast<int>(*cpu_quota));
}

}  // namespace r1::numa
