// Packed products for processors that have AVX-512 VNNI and no VBMI (Cascade Lake, Cooper Lake): Skylake's lookups, and
// one vpdpbusd instead of three instructions.
#include "simd/avx512_vnni/gemv.h"
#include "simd/avx512_vnni/vnni_vector.h"
#include "simd/shuffle_gemm.h"
#include "simd/shuffle_gemv.h"

namespace r1::simd {

void use_avx512_vnni_without_vbmi_gemv(GemvFn* table) {
  use_shuffle_gemv<VnniVector>(table);
}

void use_avx512_vnni_without_vbmi_gemm(GemmFn* table) {
  use_shuffle_gemm<VnniVector>(table);
  table[static_cast<int>(quant::Format::w8)] = tile_gemm<quant::Format::w8, W8Unpack, VnniVector>;
}

}  // namespace r1::simd
