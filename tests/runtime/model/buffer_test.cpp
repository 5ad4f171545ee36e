// Buffers that own their memory, and parts of them that do not.
#include "runtime/model/buffer.h"

#include <doctest/doctest.h>

using r1::rt::Buffer;

TEST_CASE("buffer: a part is memory of its lender, wherever both are moved") {
  for (const std::size_t n : {std::size_t{100}, std::size_t{2} << 20}) {  // below and above what is given lazily
    CAPTURE(n);
    Buffer<float> lender(n);
    Buffer<float> part = Buffer<float>::part_of(lender, 10, 20);
    CHECK(part.size() == 20);
    part[3] = 7;
    CHECK(lender[13] == 7);
    const Buffer<float> moved = std::move(part);
    Buffer<float> owner;
    owner = std::move(lender);
    owner[14] = 8;
    CHECK(moved.data() == owner.at(10));
    CHECK(moved[4] == 8);
    part = Buffer<float>(5);  // an owner again: sanitizers see whether it is freed once
    CHECK(part[4] == 0);
  }
}
