#include "numa/arena.h"

#include <doctest/doctest.h>
#include <sys/mman.h>

#include <cstdint>
#include <limits>
#include <vector>

#include "numa/huge_pages.h"
#include "numa/topology.h"

using r1::numa::Arena;

TEST_CASE("an arena is aligned, zeroed, writable to its last byte, and its own") {
  for (const std::size_t bytes :
       {std::size_t{1}, std::size_t{4096}, Arena::alignment_bytes, 3 * Arena::alignment_bytes + 5}) {
    CAPTURE(bytes);
    const auto arena = Arena::allocate(bytes), other = Arena::allocate(bytes);
    REQUIRE(arena != nullptr);
    REQUIRE(other != nullptr);
    CHECK(reinterpret_cast<std::uintptr_t>(arena->data()) % Arena::alignment_bytes == 0);
    CHECK(arena->size() == bytes);
    std::size_t n_nonzero = 0, n_wrong = 0;
    for (std::size_t i = 0; i < bytes; ++i) n_nonzero += arena->data()[i] != std::byte{0};
    CHECK(n_nonzero == 0);
    for (std::size_t i = 0; i < bytes; ++i) arena->data()[i] = static_cast<std::byte>(i + 1);
    arena->protect();
    for (std::size_t i = 0; i < bytes; ++i) n_wrong += arena->data()[i] != static_cast<std::byte>(i + 1);
    CHECK(n_wrong == 0);
    CHECK(other->data()[bytes - 1] == std::byte{0});
  }
}

TEST_CASE("an arena that cannot be is refused") {
  CHECK(Arena::allocate(0) == nullptr);
  CHECK(Arena::allocate(std::numeric_limits<std::size_t>::max()) == nullptr);
  CHECK(Arena::allocate(std::size_t{1} << 62) == nullptr);
}

TEST_CASE("the share of huge pages is the kernel's own count") {
  constexpr std::size_t n = 8;
  const auto arena = Arena::allocate(n * Arena::alignment_bytes);
  REQUIRE(arena != nullptr);
  // Every other huge page is made of small ones.
  std::vector<const std::byte*> all, small, huge;
  for (std::size_t i = 0; i < n; ++i) {
    std::byte* page = arena->data() + i * Arena::alignment_bytes;
    if (i % 2 == 0) REQUIRE(::madvise(page, Arena::alignment_bytes, MADV_NOHUGEPAGE) == 0);
    for (std::size_t at = 0; at < Arena::alignment_bytes; at += 4096) page[at] = std::byte{1};
    all.push_back(page);
    (i % 2 == 0 ? small : huge).push_back(page);
  }
  CHECK(r1::numa::huge_page_share(small) == 0);
  CHECK(r1::numa::huge_page_share({}) == 0);
  if (r1::numa::read_topology().transparent_huge_pages == "never") {
    CHECK(r1::numa::huge_page_share(all) == 0);
  } else {  // memory may be too scattered for some
    CHECK(r1::numa::huge_page_share(all) <= 0.5);
    CHECK(r1::numa::huge_page_share(huge) == doctest::Approx(2 * r1::numa::huge_page_share(all)));
  }
}
