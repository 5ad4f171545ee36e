// Where a forward pass spends its time, for those who measure. Absent (Pass::profile is null), it costs a test per
// phase.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <vector>

#include "numa/thread_team.h"

namespace r1::rt {

enum class Phase : std::uint8_t { embedding, attention_projections, attention, router, experts, dense_mlp, head };
inline constexpr std::size_t n_phases = 7;

// Each member's time by phase; time at barriers is counted apart. The team must have measure_waits(true).
class Profile {
 public:
  explicit Profile(int n_members) : members_(static_cast<std::size_t>(n_members)) {}

  // A pass begins here for this member.
  void start(const numa::Member& member) {
    Times& own = members_[static_cast<std::size_t>(member.index())];
    own.last = Clock::now();
    own.last_waited_ns = member.waited_ns();
  }
  // What this member did since start() or the last mark() was `phase`.
  void mark(const numa::Member& member, Phase phase) {
    Times& own = members_[static_cast<std::size_t>(member.index())];
    const Clock::time_point now = Clock::now();
    const std::uint64_t waited_ns = member.waited_ns();
    const auto elapsed_ns = static_cast<std::uint64_t>(std::chrono::nanoseconds(now - own.last).count());
    const std::uint64_t waiting_ns = waited_ns - own.last_waited_ns;
    own.phase_ns[static_cast<std::size_t>(phase)] += elapsed_ns - waiting_ns;
    own.barriers_ns += waiting_ns;
    own.last = now;
    own.last_waited_ns = waited_ns;
  }

  // Mean over the members, of everything since the profile was made.
  [[nodiscard]] double phase_ns(Phase phase) const {
    double sum = 0;
    for (const Times& m : members_) sum += static_cast<double>(m.phase_ns[static_cast<std::size_t>(phase)]);
    return sum / static_cast<double>(members_.size());
  }
  [[nodiscard]] double barriers_ns() const {
    double sum = 0;
    for (const Times& m : members_) sum += static_cast<double>(m.barriers_ns);
    return sum / static_cast<double>(members_.size());
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct alignas(64) Times {
    Clock::time_point last;
    std::uint64_t last_waited_ns = 0, barriers_ns = 0;
    std::array<std::uint64_t, n_phases> phase_ns{};
  };
  std::vector<Times> members_;
};

}  // namespace r1::rt
