// Internal to simd/: entries of the kernel table for the baseline, AVX2 and FMA.
#pragma once

#include "simd/kernels.h"

namespace r1::simd {

void use_avx2_gemv(GemvFn* table);  // [n_formats + 1], by format id
void use_avx2_gemm(GemmFn* table);
bool quantize_row_avx2(const Activations& view, std::uint32_t token);

}  // namespace r1::simd
