#include "numa/thread_team.h"

#include <doctest/doctest.h>
#include <omp.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <thread>
#include <vector>

#include "numa/topology.h"

using namespace r1::numa;

TEST_CASE("every member runs once and barriers hold, also with more threads than cores") {
  for (const int n : {1, 2, 3, 8}) {
    CAPTURE(n);
    ThreadTeam team({n, true});
    REQUIRE(team.size() == n);
    constexpr int n_rounds = 300;
    std::vector<int> progress(static_cast<std::size_t>(n) * 16);
    std::atomic<int> violations = 0;
    for (int run = 0; run < 3; ++run) {
      std::fill(progress.begin(), progress.end(), 0);
      team.run([&](const Member& member) {
        REQUIRE(member.count() == n);
        for (int round = 1; round <= n_rounds; ++round) {
          progress[static_cast<std::size_t>(member.index()) * 16] = round;
          member.barrier();
          for (int i = 0; i < n; ++i) violations += progress[static_cast<std::size_t>(i) * 16] != round;
          member.barrier();
        }
      });
      for (int i = 0; i < n; ++i) CHECK(progress[static_cast<std::size_t>(i) * 16] == n_rounds);
    }
    CHECK(violations == 0);
  }
}

TEST_CASE("libraries that run on OpenMP stay on the member that calls them") {
  const int before = omp_get_max_threads();
  for (const int n : {1, 2}) {
    CAPTURE(n);
    ThreadTeam team({n, true});
    std::atomic<int> alone = 0;
    // How oneDNN asks how many threads it has.
    team.run([&](const Member&) { alone += omp_in_parallel() != 0 || omp_get_max_threads() == 1 ? 1 : 0; });
    CHECK(alone == n);
  }
  CHECK(omp_get_max_threads() == before);
}

TEST_CASE("time at barriers is counted where it is asked for, for those who wait") {
  ThreadTeam team({2, true});
  const auto late_second = [&](std::uint64_t(&waited)[2]) {
    team.run([&](const Member& member) {
      if (member.index() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      member.barrier();
      waited[member.index()] = member.waited_ns();
    });
  };
  std::uint64_t waited[2] = {1, 1};
  late_second(waited);
  CHECK(waited[0] == 0);
  CHECK(waited[1] == 0);
  team.measure_waits(true);
  late_second(waited);
  CHECK(waited[0] > 0);
  const std::uint64_t once = waited[0];
  late_second(waited);
  CHECK(waited[0] > once);
  CHECK(waited[0] > waited[1]);
  team.measure_waits(true);  // from the start again
  team.run([](const Member& member) { CHECK(member.waited_ns() == 0); });
  team.measure_waits(false);
  late_second(waited);
  CHECK(waited[0] == 0);
}

TEST_CASE("the caller's policy and priority are its own") {
  int nice = -100, policy = -1;
  std::thread([&] {
    sched_param none = {};
    REQUIRE(::sched_setscheduler(0, SCHED_BATCH, &none) == 0);
    REQUIRE(::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), 15) == 0);
    ThreadTeam team({2, true});
    team.run([](const Member& member) { member.barrier(); });
    policy = ::sched_getscheduler(0);
    nice = ::getpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()));
  }).join();
  CHECK(policy == SCHED_BATCH);
  CHECK(nice == 15);
  policy = ::sched_getscheduler(0);
  nice = ::getpriority(PRIO_PROCESS, 0);
  ThreadTeam team({2, true});
  team.run([](const Member& member) { member.barrier(); });
  CHECK(::sched_getscheduler(0) == policy);
  CHECK(::getpriority(PRIO_PROCESS, 0) == nice);
}

TEST_CASE("shares cover everything once") {
  ThreadTeam team({3, false});
  for (const std::uint32_t items : {0u, 1u, 2u, 7u, 1000u}) {
    std::vector<std::atomic<int>> seen(items);
    team.run([&](const Member& member) {
      const auto [begin, end] = member.share(items);
      for (std::uint32_t i = begin; i < end; ++i) ++seen[i];
    });
    for (const auto& s : seen) CHECK(s == 1);
  }
}

TEST_CASE("the caller keeps its affinity") {
  cpu_set_t before, after;
  REQUIRE(::sched_getaffinity(0, sizeof before, &before) == 0);
  ThreadTeam team;
  team.run([](const Member& member) { member.barrier(); });
  REQUIRE(::sched_getaffinity(0, sizeof after, &after) == 0);
  CHECK(CPU_EQUAL(&before, &after));
}

TEST_CASE("teams of different threads run side by side") {
  std::vector<std::thread> threads;
  std::atomic<int> sum = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      ThreadTeam team({2, true});
      for (int round = 0; round < 50; ++round) {
        team.run([&](const Member& member) {
          member.barrier();
          sum += 1;
          member.barrier();
        });
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(sum == 4 * 50 * 2);
}

TEST_CASE("the topology is that of a machine") {
  const Topology t = read_topology();
  CHECK(t.n_cores >= 1);
  CHECK(t.n_threads >= t.n_cores);
  CHECK(t.memory_bytes > 0);
  CHECK(t.memory_available_bytes <= t.memory_bytes);
  CHECK(!t.nodes.empty());
  CHECK(measure_read_bandwidth_bytes_per_s(1, 32 << 20) > 1e8);
}
