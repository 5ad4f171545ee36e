#include "numa/arena.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>

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
