// Internal to simd/: wide batches of the packed formats for AMX-INT8 with AVX-512 VBMI.
#pragma once

#include "simd/kernels.h"

namespace r1::simd {

void use_amx_gemm(Kernels& kernels);

}  // namespace r1::simd
