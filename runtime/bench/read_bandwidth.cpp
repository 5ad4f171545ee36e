#include "runtime/bench/read_bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

namespace r1::bench {
namespace {

using Clock = std::chrono::steady_clock;

// A burst looks at the clock after each: some milliseconds of reading.
constexpr std::size_t slice_bytes = std::size_t{64} << 20;

}  // namespace

std::unique_ptr<ReadBandwidth> ReadBandwidth::create(const numa::Topology& topology) {
  const auto packages = static_cast<std::uint64_t>(std::max(topology.n_packages, 1));
  const std::uint64_t wanted = std::max<std::uint64_t>(std::uint64_t{512} << 20, 4 * topology.l3_bytes * packages);
  const std::uint64_t bytes = std::min(wanted, topology.memory_available_bytes / 8) / slice_bytes * slice_bytes;
  std::unique_ptr<numa::Arena> arena = numa::Arena::allocate(bytes);
  if (arena == nullptr) return nullptr;
  // Random bits that are ordinary numbers up to 1 as bf16 and as f32 (exponents 64 … 127): no page is the kernel's
  // shared zero page, and no kernel meets a subnormal, which some processors are slow at.
  constexpr std::uint64_t always_set = 0x2000200020002000u, never_set = 0x4000400040004000u;
  std::uint64_t state = 88172645463325252u;
  for (std::size_t i = 0; i + sizeof state <= bytes; i += sizeof state) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    const std::uint64_t bits = (state | always_set) & ~never_set;
    std::memcpy(arena->data() + i, &bits, sizeof bits);
  }
  return std::unique_ptr<ReadBandwidth>(new ReadBandwidth(std::move(arena)));
}

ReadBandwidth::Burst ReadBandwidth::burst(numa::ThreadTeam& team, double seconds) {
  Burst result;
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(team.size()));
  while (result.seconds < seconds) {
    const auto start = Clock::now();
    team.run([&](const numa::Member& member) {
      constexpr std::uint32_t page_bytes = 4096;
      const auto [begin, end] = member.share(slice_bytes / page_bytes);
      sums[static_cast<std::size_t>(member.index())] = numa::read_bytes(
          arena_->data() + at_ + std::size_t{begin} * page_bytes, std::size_t{end - begin} * page_bytes);
    });
    result.seconds += std::chrono::duration<double>(Clock::now() - start).count();
    result.bytes += static_cast<double>(slice_bytes);
    at_ = (at_ + slice_bytes) % arena_->size();
    for (const std::uint64_t sum : sums) checksum_ ^= sum;
  }
  return result;
}

}  // namespace r1::bench
