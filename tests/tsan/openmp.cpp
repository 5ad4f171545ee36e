// Tells ThreadSanitizer what libgomp's forks, joins and barriers order. libgomp is not instrumented and synchronises by
// futexes, so TSan would take everything that a parallel region reads or leaves behind for a race. The calls that the
// compiler makes for the pragmas come here (the linker's --wrap, in the root CMakeLists.txt) and only add the edges
// that the OpenMP specification promises; nothing that happens inside a region is hidden.
#include <sanitizer/tsan_interface.h>

extern "C" {

void __real_GOMP_parallel(void (*fn)(void*), void* data, unsigned n_threads, unsigned flags);
void __real_GOMP_barrier();

struct Region {
  void (*fn)(void*);
  void* data;
  char fork, join;  // addresses that stand for the two events
};

// Runs before the fork's edge is there: not instrumented itself.
__attribute__((no_sanitize("thread"))) static void run_member(void* region_data) {
  auto* region = static_cast<Region*>(region_data);
  __tsan_acquire(&region->fork);
  region->fn(region->data);
  __tsan_release(&region->join);
}

__attribute__((no_sanitize("thread"))) void __wrap_GOMP_parallel(void (*fn)(void*), void* data, unsigned n_threads,
                                                                 unsigned flags) {
  Region region{fn, data, 0, 0};
  __tsan_release(&region.fork);
  __real_GOMP_parallel(run_member, &region, n_threads, flags);
  __tsan_acquire(&region.join);
}

// One address for all teams: teams side by side are ordered with each other more than they are, so races between two
// teams at a barrier of OpenMP's may go unseen (ThreadTeam's own barriers are atomics, which TSan follows exactly).
void __wrap_GOMP_barrier() {
  static char barrier;
  __tsan_release(&barrier);
  __real_GOMP_barrier();
  __tsan_acquire(&barrier);
}

}  // extern "C"
