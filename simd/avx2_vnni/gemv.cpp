// Packed products for AVX2 with AVX-VNNI (Alder Lake and later client processors): AVX2's unpacking, and one vpdpbusd
// instead of three instructions.
#include "simd/avx2_vnni/gemv.h"

#include <immintrin.h>

#include "simd/avx2/vector.h"
#include "simd/shuffle_gemm.h"
#include "simd/shuffle_gemv.h"

namespace r1::simd {
namespace {

struct VnniDot {
  static constexpr int tile_tokens = 6;  // twelve sums, two weights, one activation: 15 of 16 registers
  static constexpr int products_behind = 0;
  static __m256i dot(__m256i acc, __m256i weights, __m256i activation) {
    return _mm256_dpbusd_epi32(acc, weights, activation);
  }
  static constexpr int w8_offset = 128;
  static __m256i w8_bytes(__m256i stored) { return stored; }
  static __m256i w8_weights(__m256i bytes) { return bytes; }
  template <int>
  static __m256i dot_w8(__m256i acc, __m256i weights, __m256i activation) {
    return _mm256_dpbusd_epi32(acc, weights, activation);
  }
};

}  // namespace

void use_avx2_vnni_gemv(GemvFn* table) {
  use_shuffle_gemv<Vector256<VnniDot>>(table);
  use_shuffle_w8_gemv<Vector256<VnniDot>>(table);
}

void use_avx2_vnni_gemm(GemmFn* table) {
  use_shuffle_gemm<Vector256<VnniDot>>(table);
  use_shuffle_w8_gemm<Vector256<VnniDot>>(table);
}

}  // namespace r1::simd
