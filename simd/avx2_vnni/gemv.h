// Internal to simd/: the packed formats' entries of the kernel table for AVX2 with AVX-VNNI.
#pragma once

#include "simd/kernels.h"

namespace r1::simd {

void use_avx2_vnni_gemv(GemvFn* table);  // [n_formats + 1], by format id
void use_avx2_vnni_gemm(GemmFn* table);
void use_avx2_vnni_q8_attention(Kernels& kernels);
void use_avx2_vnni_prefill_attention(Kernels& kernels);

}  // namespace r1::simd
