// Internal to simd/: what the arithmetic units do when nothing else holds them up. Internal linkage, as in
// trellis_shape.h.
#pragma once

#include <cstdint>

namespace r1::simd {
namespace {

// n rounds of independent steps, enough of them to hide the latency of any (12 fit the 16 registers of AVX2, and
// vdpbf16ps on Zen 5 needs more). A step does `Products` multiply-adds and must not be seen through by the compiler.
// Returns how many multiply-adds were done.
template <std::uint64_t Products, int chains = 12, class Register, class Step>
inline std::uint64_t multiply_adds(std::uint64_t n, Register start, Step&& step) {
  Register sums[chains];
  for (auto& sum : sums) sum = start;
  for (std::uint64_t i = 0; i < n; ++i) {
#pragma GCC unroll 24
    for (auto& sum : sums) sum = step(sum);
  }
  return n * chains * Products;
}

}  // namespace
}  // namespace r1::simd
