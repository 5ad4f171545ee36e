// Attention over a q8 cache for AVX2 with AVX-VNNI.
#include "simd/q8_attention.h"

#include "simd/avx2/q8_vector.h"
#include "simd/avx2_vnni/gemv.h"

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

}  // namespace

void use_avx2_vnni_q8_attention(Kernels& kernels) {
  kernels.q8_qk = q8_qk<Q8Vector256<VnniByteDot>>;
  kernels.q8_pv = q8_pv<Q8Vector256<VnniByteDot>>;
}

}  // namespace r1::simd
