#include "numa/memory_limit.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "numa/topology.h"

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

TEST_CASE("cgroup files that make no sense set no limit") {
  const FakeCgroups fake;
  for (const char* self : {"", "\n", "0", "0:", "0:::", "0::relative\n", "::", "0::/a/b\n"}) {
    CAPTURE(self);
    fake.write("self", self);
    fake.write("fs/a/b/memory.max", "-5x");
    fake.write("fs/a/b/memory.current", "");
    fake.write("fs/a/b/memory.stat", "active_file many");
    CHECK_FALSE(fake.available().has_value());
  }
}

TEST_CASE("available memory is no more than the groups allow") {
  const auto topology = r1::numa::read_topology();
  CHECK(topology.memory_available_bytes > 0);
  if (const auto limit = cgroup_memory_available_bytes()) {
    CHECK(topology.memory_available_bytes <= *limit + (std::uint64_t{1} << 30));  // others may have freed some since
  }
}
