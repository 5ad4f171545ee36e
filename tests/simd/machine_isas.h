// The kernel tables to test.
#pragma once

#include <string>
#include <vector>

#include "simd/avx512/gemv.h"
#include "simd/avx512_vnni/gemv.h"
#include "simd/kernels.h"

// Those this machine can run.
inline std::vector<const r1::simd::Kernels*> machine_tables() {
  std::vector<const r1::simd::Kernels*> tables;
  for (const auto& line : r1::simd::isa_report("")) {
    if (line.available) tables.push_back(r1::simd::kernels_for(line.isa));
  }
  return tables;
}

namespace r1::simd {
void use_avx2_vnni_gemv_evex(GemvFn* table);
void use_avx2_vnni_gemm_evex(GemmFn* table);
void use_avx2_vnni_q8_attention_evex(Kernels& kernels);
void use_avx2_vnni_prefill_attention_evex(Kernels& kernels);
void use_amx_prefill_attention_emulated(Kernels& kernels);
void use_amx_q8_attention_emulated(Kernels& kernels);
}  // namespace r1::simd

// Those; what AVX-512 does on processors without VNNI; and AVX-VNNI's kernels compiled to AVX-512-VNNI's encoding of
// the same instruction where only that is there.
inline std::vector<const r1::simd::Kernels*> tested_tables() {
  auto tables = machine_tables();
  if (r1::simd::kernels_for(r1::simd::Isa::avx512) != nullptr) {
    static const r1::simd::Kernels skylake = [] {
      r1::simd::Kernels table = *r1::simd::kernels_for(r1::simd::Isa::avx2);
      table.isa = r1::simd::Isa::avx512;
      r1::simd::use_avx512_attention(table);
      r1::simd::use_avx512_gemv(table.gemv);
      r1::simd::use_avx512_gemm(table.gemm);
      r1::simd::use_avx512_prefill_attention(table);
      return table;
    }();
    tables.push_back(&skylake);
  }
  const auto* vnni = r1::simd::kernels_for(r1::simd::Isa::avx512_vnni);
  if (vnni != nullptr && r1::simd::kernels_for(r1::simd::Isa::avx2_vnni) == nullptr) {
    static const r1::simd::Kernels emulated = [&] {
      r1::simd::Kernels table = *r1::simd::kernels_for(r1::simd::Isa::avx2);
      table.isa = r1::simd::Isa::avx2_vnni;
      r1::simd::use_avx2_vnni_gemv_evex(table.gemv);
      r1::simd::use_avx2_vnni_gemm_evex(table.gemm);
      r1::simd::use_avx2_vnni_q8_attention_evex(table);
      r1::simd::use_avx2_vnni_prefill_attention_evex(table);
      return table;
    }();
    tables.push_back(&emulated);
  }
  return tables;
}

// Those, and AMX's attention over tiles in plain code where there is no AMX.
inline std::vector<const r1::simd::Kernels*> attention_tables() {
  auto tables = tested_tables();
  const auto* vnni = r1::simd::kernels_for(r1::simd::Isa::avx512_vnni);
  if (vnni != nullptr && r1::simd::kernels_for(r1::simd::Isa::amx) == nullptr) {
    static const r1::simd::Kernels emulated = [&] {
      r1::simd::Kernels table = *vnni;
      table.isa = r1::simd::Isa::amx;
      r1::simd::use_amx_prefill_attention_emulated(table);
      r1::simd::use_amx_q8_attention_emulated(table);
      return table;
    }();
    tables.push_back(&emulated);
  }
  return tables;
}

// Those, and both ways in which AVX-512-VNNI's row kernels read memory, of which a machine takes one.
inline std::vector<const r1::simd::Kernels*> row_kernel_tables() {
  auto tables = tested_tables();
  if (const auto* vnni = r1::simd::kernels_for(r1::simd::Isa::avx512_vnni)) {
    static r1::simd::Kernels readings[] = {*vnni, *vnni};
    for (const bool prefetch : {false, true}) {
      r1::simd::use_avx512_vnni_gemv(readings[prefetch].gemv, prefetch);
      r1::simd::use_avx512_vnni_w8_gemv(readings[prefetch].gemv, prefetch);
      tables.push_back(&readings[prefetch]);
    }
  }
  return tables;
}
