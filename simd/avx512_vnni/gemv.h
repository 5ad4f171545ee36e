// Internal to simd/: the packed formats' entries of the kernel table for AVX-512 with VBMI and VNNI.
#pragma once

#include "simd/kernels.h"

namespace r1::simd {

// How far ahead of products the row kernels ask for codes; measurements in gemv.cpp.
inline constexpr std::size_t gemv_ahead_bytes = 3072;

// Tables: [n_formats + 1], by format id
void use_avx512_vnni_gemv(GemvFn* table, bool prefetch);  // all but w8; by prefetch instructions or without
void use_avx512_vnni_gemm(GemmFn* table);
void use_avx512_vnni_w8_gemv(GemvFn* table, bool prefetch);
void use_avx512_vnni_q8_attention(Kernels& kernels);
void use_avx512_bf16_attention(Kernels& kernels);  // for machines that have avx512_bf16, too
void use_avx512_vnni_prefill_attention(Kernels& kernels);
void use_avx512_vnni_unpack(UnpackFn* table);

// For processors that have VNNI alone; w8_gemv, q8_attention and prefill_attention above are theirs, too.
void use_avx512_vnni_without_vbmi_gemv(GemvFn* table);  // all but w8
void use_avx512_vnni_without_vbmi_gemm(GemmFn* table);
void use_avx512_bf16_unpack(UnpackFn* table);  // for machines that have avx512_bf16, too

}  // namespace r1::simd
