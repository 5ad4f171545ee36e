// The tables that have wide batches (simd/kernels.h, WideGemm).
#pragma once

#include <doctest/doctest.h>

#include <vector>

#include "simd/kernels.h"

namespace r1::simd {
void use_amx_gemm_emulated(Kernels& kernels);
void use_amx_bf16_gemm_emulated(Kernels& kernels);
}  // namespace r1::simd

struct Wide {
  const char* name;
  r1::simd::Kernels kernels;
};

inline std::vector<Wide> wide_tables() {
  std::vector<Wide> tables;
  if (const r1::simd::Kernels* amx = r1::simd::kernels_for(r1::simd::Isa::amx)) tables.push_back({"amx", *amx});
  if (r1::simd::kernels_for(r1::simd::Isa::avx512_vnni) != nullptr) {
    tables.push_back({"emulated tiles", {}});
    r1::simd::use_amx_gemm_emulated(tables.back().kernels);
    r1::simd::use_amx_bf16_gemm_emulated(tables.back().kernels);
  }
  if (tables.empty()) MESSAGE("this machine has neither AMX nor AVX-512 VBMI: nothing to test here");
  return tables;
}
