// A pinned thread team: one OpenMP parallel region per forward pass, cheap barriers inside.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace r1::numa {

class ThreadTeam;

// One thread's place in a running team.
class Member {
 public:
  [[nodiscard]] int index() const { return index_; }
  [[nodiscard]] int count() const { return count_; }
  // All members arrive before any leaves; what was written before is visible after.
  void barrier() const;
  // Time this member has spent at barriers of its team while measure_waits() was on.
  [[nodiscard]] std::uint64_t waited_ns() const;
  // This member's contiguous share of n items.
  [[nodiscard]] std::pair<std::uint32_t, std::uint32_t> share(std::uint32_t n) const {
    const auto i = static_cast<std::uint64_t>(index_), c = static_cast<std::uint64_t>(count_);
    return {static_cast<std::uint32_t>(i * n / c), static_cast<std::uint32_t>((i + 1) * n / c)};
  }

 private:
  friend class ThreadTeam;
  Member(ThreadTeam& team, int index, int count) : team_(&team), index_(index), count_(count) {}
  ThreadTeam* team_;
  int index_, count_;
};

struct TeamOptions {
  int n_threads = 0;  // 0: one per physical core that this process may use, within its CPU quota
  bool pin = true;
};

class ThreadTeam {
 public:
  explicit ThreadTeam(const TeamOptions& options = {});
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  [[nodiscard]] int size() const;
  // Whether barriers take the time (two looks at the clock each). Not while a run is going on.
  void measure_waits(bool on);

  // Runs fn(member) once on each thread, the caller being member 0, and returns when all are done. Not reentrant: one
  // run at a time per team (callers serialise). fn must not throw.
  template <class Fn>
  void run(Fn&& fn) {
    auto call = [](void* context, const Member& member) {
      (*static_cast<std::remove_reference_t<Fn>*>(context))(member);
    };
    run_erased(call, &fn);
  }

 private:
  friend class Member;
  void run_erased(void (*call)(void*, const Member&), void* context);
  void arrive_and_wait(int index);
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace r1::numa
