// Internal to simd/: wide batches for AMX-INT8 (t2 … t5) and AMX-BF16 (nl6, w8) with AVX-512 VBMI.
#pragma once

#include "simd/kernels.h"

namespace r1::simd {

void use_amx_gemm(Kernels& kernels);
void use_amx_bf16_gemm(Kernels& kernels);

}  // namespace r1::simd
