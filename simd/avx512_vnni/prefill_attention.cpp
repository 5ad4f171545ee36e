// Prefill attention for AVX-512 with VNNI.
#include "simd/avx512_vnni/gemv.h"
#include "simd/avx512_vnni/prefill_vnni.h"
#include "simd/kernels.h"
#include "simd/prefill_kernels.h"

namespace r1::simd {

void use_avx512_vnni_prefill_attention(Kernels& kernels) {
  kernels.prefill_page = prefill_page<Prefill512, BytesByVnni, WordsByVnni>;
}

}  // namespace r1::simd
