// Attention over a q8 cache for AVX2 with AVX-VNNI.
#include "simd/q8_attention.h"

#include "simd/avx2/q8_vector.h"
#include "simd/avx2_vnni/gemv.h"
#include "simd/peak.h"

namespace r1::simd {
namespace {

struct VnniByteDot {
  using Unsigned = __m256i;
  using Signed = __m256i;
  static __m256i load_unsigned(const std::uint8_t* p) { return load_256(p); }
  static __m256i load_signed(const std::int8_t* p) { return load_256(p); }
  static __m256i broadcast_unsigned(const std::uint8_t* p) { return broadcast_4(p); }
  static __m256i broadcast_signed(const std::int8_t* p) { return broadcast_4(p); }
  static __m256i dot(__m256i sum, __m256i a, __m256i b) { return _mm256_dpbusd_epi32(sum, a, b); }
};

std::uint64_t peak_int8(std::uint64_t n) {
  const __m256i x = _mm256_set1_epi8(1);
  return multiply_adds<32>(n, _mm256_setzero_si256(), [&](__m256i sum) {
    sum = _mm256_dpbusd_epi32(sum, x, x);
    asm volatile("" : "+x"(sum));
    return sum;
  });
}

}  // namespace

void use_avx2_vnni_q8_attention(Kernels& kernels) {
  kernels.q8_qk = q8_qk<Q8Vector256<VnniByteDot>>;
  kernels.q8_pv = q8_pv<Q8Vector256<VnniByteDot>>;
  kernels.peak_int8 = peak_int8;
}

}  // namespace r1::simd
