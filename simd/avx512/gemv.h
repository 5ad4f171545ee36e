// Internal to simd/: the packed formats' entries of the kernel table for AVX-512 without VBMI and VNNI.
#pragma once

#include "simd/kernels.h"

namespace r1::simd {

void use_avx512_gemv(GemvFn* table);  // [n_formats + 1], by format id
void use_avx512_gemm(GemmFn* table);
void use_avx512_attention(Kernels& kernels);
void use_avx512_prefill_attention(Kernels& kernels);

}  // namespace r1::simd
