#include "numa/limits.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "numa/thread_team.h"
#include "numa/topology.h"

using r1::numa::cgroup_cpu_quota;
using r1::numa::cgroup_memory_available_bytes;

namespace {

namespace fs = std::filesystem;

// A tree of files as the kernel has them.
class FakeCgroups {
 public:
  FakeCgroups() {
    std::string pattern = fs::temp_directory_path() / "r1-cgroup-XXXXXX";
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    root_ = pattern;
  }
  ~FakeCgroups() {
    std::error_code ignored;
    fs::remove_all(root_, ignored);
  }
  FakeCgroups(const FakeCgroups&) = delete;
  FakeCgroups& operator=(const FakeCgroups&) = delete;

  void write(const std::string& path, const std::string& text) const {
    fs::create_directories(fs::path(root_ + "/" + path).parent_path());
    std::ofstream(root_ + "/" + path) << text;
  }
  [[nodiscard]] std::optional<std::uint64_t> available() const {
    return cgroup_memory_available_bytes({root_ + "/self", root_ + "/fs"});
  }
  [[nodiscard]] std::optional<double> quota() const { return cgroup_cpu_quota({root_ + "/self", root_ + "/fs"}); }

 private:
  std::string root_;
};

}  // namespace

TEST_CASE("cgroup v2: the tightest group on the way up counts, page cache is free") {
  const FakeCgroups fake;
  CHECK_FALSE(fake.available().has_value());
  fake.write("self", "0::/user/app\n");
  CHECK_FALSE(fake.available().has_value());
  fake.write("fs/user/app/memory.max", "max\n");
  fake.write("fs/user/app/memory.current", "500\n");
  CHECK_FALSE(fake.available().has_value());
  fake.write("fs/user/memory.max", "10000\n");
  fake.write("fs/user/memory.current", "4000\n");
  CHECK(fake.available() == 6000);
  fake.write("fs/user/memory.stat", "anon 1000\nfile 3000\nactive_file 1000\ninactive_file 1500\nunevictable 0\n");
  CHECK(fake.available() == 8500);
  fake.write("fs/user/app/memory.max", "700\n");
  CHECK(fake.available() == 200);
  fake.write("fs/user/app/memory.current", "900\n");  // over the limit for a moment
  CHECK(fake.available() == 0);
}

TEST_CASE("cgroup v1, and a container that sees its own group as the root") {
  const FakeCgroups fake;
  fake.write("self", "12:cpu,cpuacct:/docker/1\n5:hugetlb,memory:/docker/1\n0::/docker/1\n");
  fake.write("fs/memory/memory.limit_in_bytes", "9223372036854771712\n");
  fake.write("fs/memory/memory.usage_in_bytes", "100\n");
  CHECK_FALSE(fake.available().has_value());
  fake.write("fs/memory/memory.limit_in_bytes", "5000\n");
  fake.write("fs/memory/memory.stat", "active_file 7\ntotal_active_file 20\ntotal_inactive_file 30\n");
  CHECK(fake.available() == 4950);
}

TEST_CASE("cgroup v2: the tightest CPU quota on the way up counts") {
  const FakeCgroups fake;
  CHECK_FALSE(fake.quota().has_value());
  fake.write("self", "0::/user/app\n");
  CHECK_FALSE(fake.quota().has_value());
  fake.write("fs/user/app/cpu.max", "max 100000\n");
  CHECK_FALSE(fake.quota().has_value());
  fake.write("fs/user/cpu.max", "250000 100000\n");
  CHECK(fake.quota() == 2.5);
  fake.write("fs/user/app/cpu.max", "50000 50000\n");
  CHECK(fake.quota() == 1);
  fake.write("fs/user/cpu.max", "2000 100000\n");
  CHECK(fake.quota() == 0.02);
}

TEST_CASE("cgroup v1: CPU quotas, beside a v2 hierarchy without any") {
  const FakeCgroups fake;
  fake.write("self", "4:memory:/docker/1\n3:cpuset:/\n2:cpu,cpuacct:/docker/1\n0::/docker/1\n");
  fake.write("fs/cpu/docker/1/cpu.cfs_quota_us", "-1\n");
  fake.write("fs/cpu/docker/1/cpu.cfs_period_us", "100000\n");
  fake.write("fs/cpuset/cpu.cfs_quota_us", "1\n");  // not the controller that limits
  fake.write("fs/cpuset/cpu.cfs_period_us", "1\n");
  CHECK_FALSE(fake.quota().has_value());
  fake.write("fs/cpu/cpu.cfs_quota_us", "300000\n");
  fake.write("fs/cpu/cpu.cfs_period_us", "100000\n");
  CHECK(fake.quota() == 3);
  fake.write("fs/cpu/docker/1/cpu.cfs_quota_us", "100000\n");
  CHECK(fake.quota() == 1);
}

TEST_CASE("whole cores of a CPU quota, at least one and no more than there are") {
  using r1::numa::threads_within;
  CHECK(threads_within(std::nullopt, 8) == 8);
  CHECK(threads_within(1.0, 8) == 1);
  CHECK(threads_within(0.02, 8) == 1);
  CHECK(threads_within(2.9, 8) == 2);
  CHECK(threads_within(3.0, 8) == 3);
  CHECK(threads_within(8.0, 8) == 8);
  CHECK(threads_within(1e12, 8) == 8);
}

TEST_CASE("cgroup files that make no sense set no limit") {
  const FakeCgroups fake;
  for (const char* self : {"", "\n", "0", "0:", "0:::", "0::relative\n", "::", "0::/a/b\n"}) {
    CAPTURE(self);
    fake.write("self", self);
    fake.write("fs/a/b/memory.max", "-5x");
    fake.write("fs/a/b/memory.current", "");
    fake.write("fs/a/b/memory.stat", "active_file many");
    CHECK_FALSE(fake.available().has_value());
    for (const char* quota : {"", "max", "-1 100000", "100000", "0 0", "5 0", "x y", "nan 1"}) {
      fake.write("fs/a/b/cpu.max", quota);
      CHECK_FALSE(fake.quota().has_value());
    }
  }
}

TEST_CASE("a team has as many threads as the groups allow") {
  const auto topology = r1::numa::read_topology();
  CHECK(topology.cpu_quota == cgroup_cpu_quota().value_or(0));
  CHECK(topology.n_team_threads == r1::numa::threads_within(cgroup_cpu_quota(), topology.n_cores));
  CHECK(r1::numa::ThreadTeam().size() == topology.n_team_threads);
}

TEST_CASE("available memory is no more than the groups allow") {
  const auto topology = r1::numa::read_topology();
  CHECK(topology.memory_available_bytes > 0);
  if (const auto limit = cgroup_memory_available_bytes()) {
    CHECK(topology.memory_available_bytes <= *limit + (std::uint64_t{1} << 30));  // others may have freed some since
  }
}
