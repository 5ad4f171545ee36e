// How fast this machine reads memory, in bursts between measurements of other things: what else the machine does then
// slows both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "numa/arena.h"
#include "numa/thread_team.h"
#include "numa/topology.h"

namespace r1::bench {

class ReadBandwidth {
 public:
  // Memory in huge pages that no cache holds. Null if there is none to be had.
  static std::unique_ptr<ReadBandwidth> create(const numa::Topology& topology);

  struct Burst {
    double bytes = 0, seconds = 0;
  };
  // Sequential reads with all threads of the team, for about `seconds`.
  [[nodiscard]] Burst burst(numa::ThreadTeam& team, double seconds);

  [[nodiscard]] const std::byte* data() const { return arena_->data(); }
  [[nodiscard]] std::size_t size() const { return arena_->size(); }

 private:
  explicit ReadBandwidth(std::unique_ptr<numa::Arena> arena) : arena_(std::move(arena)) {}
  std::unique_ptr<numa::Arena> arena_;
  std::size_t at_ = 0;          // where the next slice begins
  std::uint64_t checksum_ = 0;  // of all that was read: reads whose result nobody wants may be left out
};

}  // namespace r1::bench
