// Internal to simd/: what AMX, with AVX-512 VBMI and VNNI, does: wide batches of t2 … t5 (AMX-INT8), of nl6 and w8
// (AMX-BF16), attention of many queries, and of many heads over a q8 cache.
#pragma once

#include "simd/kernels.h"

namespace r1::simd {

void use_amx_gemm(Kernels& kernels);
void use_amx_bf16_gemm(Kernels& kernels);
void use_amx_prefill_attention(Kernels& kernels);
void use_amx_q8_attention(Kernels& kernels);

}  // namespace r1::simd
