// Sixteen lanes in AVX-512 registers.
#include "quant/trellis_search.h"

#include <immintrin.h>

namespace r1::quant {
namespace {

struct Avx512Vector {
  static constexpr int n = 16;
  __m512 v;

  static Avx512Vector broadcast(float x) { return {_mm512_set1_ps(x)}; }
  static Avx512Vector load(const float* p) { return {_mm512_loadu_ps(p)}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  // p [NBlocks]: each block's value to its share of the lanes
  template <int NBlocks>
  static Avx512Vector spread(const float* p) {
    if constexpr (NBlocks == 1) {
      return broadcast(*p);
    } else if constexpr (NBlocks == 2) {
      return {_mm512_mask_broadcastss_ps(_mm512_broadcastss_ps(_mm_load_ss(p)), 0xff00, _mm_load_ss(p + 1))};
    } else {
      static_assert(NBlocks == 4);
      const __m512i from = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
      return {_mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_loadu_ps(p)), from)};
    }
  }

  // table [256]; the index is cut to 0 … 255 and rounded down
  using Bytes = __m512i;
  static Bytes lookup(const std::int32_t* table, Avx512Vector index) {
    const __m512 inside = _mm512_min_ps(_mm512_max_ps(index.v, _mm512_setzero_ps()), _mm512_set1_ps(255));
    return _mm512_i32gather_epi32(_mm512_cvttps_epi32(inside), table, 4);
  }
  // Signed byte I of each lane's four.
  template <int I>
  static Avx512Vector byte(Bytes bytes) {
    return {_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(bytes, 24 - 8 * I), 24))};
  }
};
Avx512Vector fma(Avx512Vector a, Avx512Vector b, Avx512Vector c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
Avx512Vector mul(Avx512Vector a, Avx512Vector b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
Avx512Vector add(Avx512Vector a, Avx512Vector b) {
  return {_mm512_add_ps(a.v, b.v)};
}
Avx512Vector min(Avx512Vector a, Avx512Vector b) {
  return {_mm512_min_ps(a.v, b.v)};
}
// a < b ? x : y
Avx512Vector if_less(Avx512Vector a, Avx512Vector b, Avx512Vector x, Avx512Vector y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}

}  // namespace

BlockSearch* new_trellis_search_avx512(Format format, int n_scales) {
  return new_trellis_search<Avx512Vector>(format, n_scales);
}

}  // namespace r1::quant
