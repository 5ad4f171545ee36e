// Internal to simd/: products of prefill_kernels.h by AVX-512 VNNI. Internal linkage, as there.
#pragma once

#include "simd/avx512/prefill_vector.h"

namespace r1::simd {
namespace {

// GCC 12 copies every sum of a loop before the intrinsic and back behind it, and runs out of registers; an operand that
// is read and written is not copied.
struct BytesByVnni : PrefillBytes512, PrefillPlain512 {
  static constexpr int tile_queries = 12, tile_registers = 2;
  static __m512i dot(__m512i sum, __m512i unsigned_bytes, __m512i signed_bytes) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_bytes), "v"(signed_bytes));
    return sum;
  }
};

struct WordsByVnni : PrefillWords512 {
  static constexpr int tile_queries = 12, tile_registers = 2;
  static __m512i dot(__m512i sum, __m512i a, __m512i b) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }
};

}  // namespace
}  // namespace r1::simd
