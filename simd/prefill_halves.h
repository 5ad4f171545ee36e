// Internal to simd/: bytes as words, for instruction sets that multiply bytes by vpmaddwd. Of four bytes a word
// register takes the first and third (what is left of a dword under a mask), another the others (a shift); queries and
// weights come in that order. Internal linkage, as in trellis_shape.h.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace r1::simd {
namespace {

// What prefill_kernels.h wants of a D that widens.
struct PrefillHalves {
  static constexpr std::size_t most_query_bytes = 1024;

  // codes [n_bytes], out [2 · n_bytes]
  static void widen(const std::byte* codes, std::size_t n_bytes, std::byte* out) {
    for (std::size_t i = 0; i < n_bytes; i += 4, out += 8) {
      std::int8_t x[4];
      std::memcpy(x, codes + i, sizeof x);
      const std::int16_t halves[4] = {x[0], x[2], x[1], x[3]};
      std::memcpy(out, halves, sizeof halves);
    }
  }
  // Sixteen words in their own order → in halves, to row + 2 · j
  static void store_halves(std::byte* row, std::uint32_t j, __m256i words) {
    const __m256i halves =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + std::size_t{j} * 2), _mm256_shuffle_epi8(words, halves));
  }
};

}  // namespace
}  // namespace r1::simd
