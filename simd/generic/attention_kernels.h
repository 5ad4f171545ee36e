// Internal to simd/: products of queries and probabilities with rows of a KV cache.
#pragma once

#include "simd/kernels.h"

namespace r1::simd {

void use_attention_kernels(Kernels& kernels);
void use_avx2_q8_attention(Kernels& kernels);
void use_avx2_prefill_attention(Kernels& kernels);

}  // namespace r1::simd
