// Internal to simd/: the contract in plain code. The oracle of the other instruction sets, and the table of last
// resort.
#pragma once

#include "simd/kernels.h"

namespace r1::simd {

void use_scalar_gemv(GemvFn* table);  // [n_formats + 1], by format id
void use_scalar_gemm(GemmFn* table);
bool quantize_row_scalar(const Activations& view, std::uint32_t token);

}  // namespace r1::simd
