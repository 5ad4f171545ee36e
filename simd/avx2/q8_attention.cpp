// Attention over a q8 cache for the baseline. Bytes are widened to words first: vpmaddubsw would saturate at 255 · 127.
#include "simd/q8_attention.h"

#include "simd/avx2/q8_vector.h"
#include "simd/avx2/softmax_vector.h"
#include "simd/generic/attention_kernels.h"
#include "simd/peak.h"

namespace r1::simd {
namespace {

struct WordDot {
  // Bytes 0 and 2 of each dword as words, and bytes 1 and 3.
  struct Words {
    __m256i even, odd;
  };
  using Unsigned = Words;
  using Signed = Words;

  static Words widen_unsigned(__m256i x) {
    return {_mm256_and_si256(x, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(x, 8)};
  }
  static Words widen_signed(__m256i x) {
    return {_mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), _mm256_srai_epi16(x, 8)};
  }
  static Words load_unsigned(const std::uint8_t* p) { return widen_unsigned(load_256(p)); }
  static Words load_signed(const std::int8_t* p) { return widen_signed(load_256(p)); }
  static Words broadcast_unsigned(const std::uint8_t* p) { return widen_unsigned(broadcast_4(p)); }
  static Words broadcast_signed(const std::int8_t* p) { return widen_signed(broadcast_4(p)); }
  static __m256i dot(__m256i sum, const Words& a, const Words& b) {
    return _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(a.even, b.even), _mm256_madd_epi16(a.odd, b.odd)));
  }
};

// What a product of bytes takes without VNNI. Written out, since GCC multiplies what does not change but once.
std::uint64_t peak_int8(std::uint64_t n) {
  const __m256i ones = _mm256_set1_epi16(1), x = _mm256_set1_epi8(1);
  return multiply_adds<32>(n, _mm256_setzero_si256(), [&](__m256i sum) {
    __m256i product;
    asm volatile(
        "vpmaddubsw %2, %2, %1\n\t"
        "vpmaddwd %3, %1, %1\n\t"
        "vpaddd %1, %0, %0"
        : "+x"(sum), "=&x"(product)
        : "x"(x), "x"(ones));
    return sum;
  });
}

}  // namespace

void use_avx2_q8_attention(Kernels& kernels) {
  kernels.q8_qk = q8_qk<Q8Vector256<WordDot>>;
  kernels.q8_pv = q8_pv<Q8Vector256<WordDot>>;
  kernels.q8_weights = q8_weights<SoftmaxVector256>;
  kernels.peak_int8 = peak_int8;
}

}  // namespace r1::simd
