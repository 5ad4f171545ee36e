#include "numa/thread_team.h"

#include <immintrin.h>
#include <omp.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <optional>
#include <vector>

#include "numa/cores.h"
#include "numa/limits.h"

namespace r1::numa {
namespace {

// A barrier is usually met within microseconds; about 50 µs of pauses cost less than two futex calls. Where threads
// outnumber cores, spinning would keep the awaited thread from running.
constexpr int spins_before_sleep = 2000;

std::atomic<std::uint64_t> next_team_id = 1;
thread_local std::uint64_t pinned_for_team = 0;

// struct sched_attr of Linux (include/uapi/linux/sched/types.h), which Debian 12's libc does not declare.
struct SchedulerAttributes {
  std::uint32_t size, policy;
  std::uint64_t flags;
  std::int32_t nice;
  std::uint32_t priority;
  std::uint64_t runtime_ns, deadline_ns, period_ns;
};

// Where others want the same core, a member that wakes at a barrier should not wait for the end of their slice: each
// barrier would take one. A thread that asks for short slices gets its share in small pieces, at once (Linux 6.12 on;
// before, nothing changes). Beside 2 and 4 busy loops on 2 cores r1-nano makes 1.15 and 2.2 times the tokens per second
// with it; on a quiet machine the same. Other policies, and slices that somebody chose, stay as they are.
void ask_for_short_slices() {
  thread_local bool asked = false;
  if (asked) return;
  asked = true;
  constexpr std::uint64_t shortest_ns = 100'000;  // that the kernel takes
  SchedulerAttributes attributes = {};
  if (::syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) != 0 || attributes.policy != SCHED_OTHER)
    return;
  if (attributes.runtime_ns != 0 && attributes.runtime_ns <= shortest_ns) return;
  attributes.size = sizeof attributes;
  attributes.runtime_ns = shortest_ns;
  (void)::syscall(SYS_sched_setattr, 0, &attributes, 0);
}

}  // namespace

struct ThreadTeam::State {
  int n_threads = 1;
  int spins = 0;
  std::uint64_t id = 0;
  std::vector<cpu_set_t> cores;  // of each member; empty: not pinned

  alignas(64) std::atomic<int> arrived = 0;
  alignas(64) std::atomic<std::uint32_t> generation = 0;
  int count = 1;  // members of the running region

  struct alignas(64) Waited {
    std::uint64_t ns = 0;
  };
  std::vector<Waited> waited;  // of each member; empty: not measured
};

ThreadTeam::ThreadTeam(const TeamOptions& options) : state_(std::make_unique<State>()) {
  const std::vector<cpu_set_t> cores = usable_cores();
  const int n_cores = static_cast<int>(cores.size());
  const std::optional<double> quota = cgroup_cpu_quota();
  state_->n_threads = options.n_threads > 0 ? options.n_threads : threads_within(quota, n_cores);
  state_->spins = state_->n_threads <= n_cores ? spins_before_sleep : 0;
  state_->id = next_team_id++;
  // A single thread stays where the system puts it: several one-thread teams would else share the first core, as would
  // containers that each have a part of the machine.
  const bool shares_cores = quota && *quota < n_cores;
  if (options.pin && state_->n_threads > 1 && state_->n_threads <= n_cores && !shares_cores) state_->cores = cores;
}

ThreadTeam::~ThreadTeam() = default;

int ThreadTeam::size() const {
  return state_->n_threads;
}

void ThreadTeam::measure_waits(bool on) {
  state_->waited.assign(on ? static_cast<std::size_t>(state_->n_threads) : 0, {});
}

void ThreadTeam::run_erased(void (*call)(void*, const Member&), void* context) {
  State& state = *state_;
  const bool pin = !state.cores.empty();
  // The caller is the program's own thread: it is moved to the first core only if it is elsewhere, and gets its
  // affinity back. A move takes 100 µs, longer than a small model's layer; from then on the other cores are taken, and
  // it stays. The others belong to OpenMP's pool and keep their cores until another team pins them elsewhere.
  cpu_set_t before;
  const int cpu = pin ? ::sched_getcpu() : -1;
  const bool move = pin && (cpu < 0 || !CPU_ISSET(static_cast<unsigned>(cpu), &state.cores.front())) &&
                    ::sched_getaffinity(0, sizeof before, &before) == 0;
  if (move) ::sched_setaffinity(0, sizeof(cpu_set_t), &state.cores.front());
  if (state.n_threads > 1) ask_for_short_slices();
#pragma omp parallel num_threads(state.n_threads)
  {
    const int index = omp_get_thread_num();
    if (index != 0) ask_for_short_slices();
    if (pin && index != 0 && pinned_for_team != state.id) {
      ::sched_setaffinity(0, sizeof(cpu_set_t), &state.cores[static_cast<std::size_t>(index)]);
      pinned_for_team = state.id;
    }
    // A library that runs on OpenMP (oneDNN) sees that it is inside a region, and stays on the member that calls it;
    // but a region of one member does not count as one.
    if (state.n_threads == 1) omp_set_num_threads(1);  // of this region
#pragma omp single
    state.count = omp_get_num_threads();  // fewer than asked for inside another parallel region
    call(context, Member(*this, index, state.count));
    // OpenMP's own barrier spins for milliseconds, time that a late member may need.
    if (state.count > 1) arrive_and_wait(index);
  }
  if (move) ::sched_setaffinity(0, sizeof before, &before);
}

void ThreadTeam::arrive_and_wait(int) {
  State& state = *state_;
  const std::uint32_t generation = state.generation.load(std::memory_order_acquire);
  if (state.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == state.count) {
    state.arrived.store(0, std::memory_order_relaxed);
    state.generation.store(generation + 1, std::memory_order_release);
    state.generation.notify_all();
    return;
  }
  for (int i = 0; i < state.spins; ++i) {
    if (state.generation.load(std::memory_order_acquire) != generation) return;
    _mm_pause();
  }
  while (state.generation.load(std::memory_order_acquire) == generation)
    state.generation.wait(generation, std::memory_order_acquire);
}

void Member::barrier() const {
  if (count_ == 1) return;
  std::vector<ThreadTeam::State::Waited>& waited = team_->state_->waited;
  if (waited.empty()) return team_->arrive_and_wait(index_);
  const auto start = std::chrono::steady_clock::now();
  team_->arrive_and_wait(index_);
  const std::chrono::nanoseconds elapsed = std::chrono::steady_clock::now() - start;
  waited[static_cast<std::size_t>(index_)].ns += static_cast<std::uint64_t>(elapsed.count());
}

std::uint64_t Member::waited_ns() const {
  const std::vector<ThreadTeam::State::Waited>& waited = team_->state_->waited;
  return waited.empty() ? 0 : waited[static_cast<std::size_t>(index_)].ns;
}

}  // namespace r1::numa
