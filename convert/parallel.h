// A loop over independent pieces of work by a team of threads that ends at the first error.
#pragma once

#include <omp.h>
#include <r1/result.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>

namespace r1::convert {

// fn(i) for every i < n, in any order. Once one of them fails, or *stop (null: never) is set, the rest is left out; the
// first error is returned.
template <class Fn>
[[nodiscard]] Result<void> parallel_for_each(std::size_t n, int n_threads, const std::atomic<bool>* stop,
                                             const Fn& fn) {
  std::atomic<bool> failed = false;
  std::mutex mutex;
  Error error;
  const auto count = static_cast<std::int64_t>(n);
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
  for (std::int64_t i = 0; i < count; ++i) {
    if (failed) continue;
    Result<void> result = stop != nullptr && *stop
                              ? Error{ErrorCode::cancelled, "stopped; run the same command again to continue", ""}
                              : fn(static_cast<std::size_t>(i));
    if (result) continue;
    const std::lock_guard lock(mutex);
    if (!failed) error = std::move(result).error();
    failed = true;
  }
  if (failed) return error;
  return {};
}

}  // namespace r1::convert
