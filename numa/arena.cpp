#include "numa/arena.h"

#include <sys/mman.h>

#include <cstdint>

namespace r1::numa {

std::unique_ptr<Arena> Arena::allocate(std::size_t bytes) {
  std::size_t mapping_bytes = 0;
  if (bytes == 0 || __builtin_add_overflow(bytes, 2 * alignment_bytes, &mapping_bytes)) return nullptr;
  // NORESERVE: the caller has checked what is available; strict accounting would refuse what the page cache can give.
  void* mapping =
      ::mmap(nullptr, mapping_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  auto arena = std::unique_ptr<Arena>(new Arena());
  arena->mapping_ = static_cast<std::byte*>(mapping);
  arena->mapping_bytes_ = mapping_bytes;
  const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(mapping) % alignment_bytes;
  arena->data_ = arena->mapping_ + (misaligned == 0 ? 0 : alignment_bytes - misaligned);
  arena->size_ = bytes;
  // Up to the end of the last huge page, which lies in the mapping: else the last one would be of small pages.
  ::madvise(arena->data_, (bytes + alignment_bytes - 1) / alignment_bytes * alignment_bytes, MADV_HUGEPAGE);
  return arena;
}

Arena::~Arena() {
  ::munmap(mapping_, mapping_bytes_);
}

void Arena::protect() const {
  ::mprotect(mapping_, mapping_bytes_, PROT_READ);
}

}  // namespace r1::numa
