// Anonymous memory in huge pages, for weights: a read loop over it meets a page boundary every 2 MiB instead of every
// 4 KiB, where the processor's prefetchers stop and the TLB misses.
#pragma once

#include <cstddef>
#include <memory>

namespace r1::numa {

class Arena {
 public:
  static constexpr std::size_t alignment_bytes = std::size_t{2} << 20;

  // Null if the system refuses. Nothing is touched: pages come, zeroed, as they are first written, near the thread that
  // writes them; huge ones where /sys/kernel/mm/transparent_hugepage/enabled is always or madvise.
  static std::unique_ptr<Arena> allocate(std::size_t bytes);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  [[nodiscard]] std::byte* data() const { return data_; }  // aligned to alignment_bytes
  [[nodiscard]] std::size_t size() const { return size_; }
  // Makes it read-only: a stray write ends the process instead of changing the model.
  void protect() const;

 private:
  Arena() = default;
  std::byte *mapping_ = nullptr, *data_ = nullptr;
  std::size_t mapping_bytes_ = 0, size_ = 0;
};

}  // namespace r1::numa
