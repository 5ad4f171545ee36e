// Packed products for AVX-512F, BW, VL and DQ: processors before VBMI and VNNI (Skylake-X), which look bytes up by
// pshufb as AVX2 does, 64 at a time.
#include "simd/avx512/gemv.h"

#include "simd/avx512/vector.h"
#include "simd/shuffle_gemm.h"
#include "simd/shuffle_gemv.h"

namespace r1::simd {

void use_avx512_gemv(GemvFn* table) {
  use_shuffle_gemv<Vector512>(table);
  use_shuffle_w8_gemv<Vector512>(table);
}

void use_avx512_gemm(GemmFn* table) {
  use_shuffle_gemm<Vector512>(table);
  use_shuffle_w8_gemm<Vector512>(table);
}

}  // namespace r1::simd
