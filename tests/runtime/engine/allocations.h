// Counts operator new of this program, all forms and all threads.
#pragma once

#include <cstdint>

namespace r1::test {

[[nodiscard]] std::uint64_t n_allocations();

}  // namespace r1::test
