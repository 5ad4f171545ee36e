// Internal to simd/: float kernels of the table, written once on xsimd.
#pragma once

#include "simd/kernels.h"

namespace r1::simd {

void use_float_kernels(Kernels& kernels);

}  // namespace r1::simd
