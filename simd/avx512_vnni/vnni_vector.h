// Internal to simd/: 512-bit registers whose products are vpdpbusd, and w8 as a tile of tile_gemm.h. No VBMI. Internal
// linkage, as in trellis_shape.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/avx512/scales.h"
#include "simd/avx512/vector.h"

namespace r1::simd {
namespace {

struct VnniVector : Vector512 {
  static Bytes dot(Bytes acc, Bytes weights, Bytes activations) {
    // GCC 12 copies the sums around the intrinsic, and runs out of registers.
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(weights), "v"(activations));
    return acc;
  }
};

// w8's bytes lie as a tile's already, but for the panels' columns side by side.
struct W8Unpack {
  static constexpr int superchunk_bytes = w8_superchunk_bytes, offset = 128;

  explicit W8Unpack(const PackedMatrix&) {}

  template <int NC>
  void superchunk(const std::uint8_t* p, std::uint8_t (*weights)[64], float (*scales)[16]) const {
    for (int b = 0; b < 4; ++b) _mm512_store_ps(scales[b * NC], s8_scales_512(p + 16 * b));
    p += 64;
#pragma GCC unroll 8
    for (int quad = 0; quad < 32; ++quad, p += 64) _mm512_store_si512(weights[quad * NC], _mm512_loadu_si512(p));
  }
};

}  // namespace
}  // namespace r1::simd
