#include <doctest/doctest.h>

#include <vector>

#include "runtime/model/work_share.h"

using namespace r1;
using namespace r1::rt;

TEST_CASE("a pool of work is cut without gap, overlap or imbalance") {
  const std::vector<std::uint32_t> units = {5, 0, 1, 448, 17}, costs = {3, 9, 100, 1, 8};
  for (int n_threads = 1; n_threads <= 5; ++n_threads) {
    numa::ThreadTeam team({.n_threads = n_threads, .pin = false});
    std::vector<std::vector<int>> done(units.size());
    for (std::size_t i = 0; i < units.size(); ++i) done[i].resize(units[i]);
    std::vector<std::uint64_t> load(static_cast<std::size_t>(n_threads));
    team.run([&](const numa::Member& member) {
      for_each_share(
          member, units.size(), [&](std::size_t i) { return units[i]; }, [&](std::size_t i) { return costs[i]; },
          [&](std::size_t i, std::uint32_t begin, std::uint32_t end) {
            for (std::uint32_t u = begin; u < end; ++u) ++done[i][u];
            load[static_cast<std::size_t>(member.index())] += std::uint64_t{end - begin} * costs[i];
          });
    });
    std::uint64_t total = 0, most = 0;
    for (const auto& item : done) {
      for (const int times : item) CHECK(times == 1);
    }
    for (const std::uint64_t l : load) total += l, most = std::max(most, l);
    CHECK(most <= total / static_cast<std::uint64_t>(team.size()) + 100);  // one unit of the dearest item
  }
}
