// Eight lanes in AVX registers.
#include "quant/trellis_search.h"

#include <immintrin.h>

namespace r1::quant {
namespace {

struct Avx2Vector {
  static constexpr int n = 8;
  __m256 v;

  static Avx2Vector broadcast(float x) { return {_mm256_set1_ps(x)}; }
  static Avx2Vector load(const float* p) { return {_mm256_loadu_ps(p)}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  // p [NBlocks]: each block's value to its share of the lanes
  template <int NBlocks>
  static Avx2Vector spread(const float* p) {
    if constexpr (NBlocks == 1) {
      return broadcast(*p);
    } else {
      static_assert(NBlocks == 2);
      return {_mm256_blend_ps(_mm256_broadcast_ss(p), _mm256_broadcast_ss(p + 1), 0xf0)};
    }
  }

  // table [256]; the index is cut to 0 … 255 and rounded down
  using Bytes = __m256i;
  static Bytes lookup(const std::int32_t* table, Avx2Vector index) {
    const __m256 inside = _mm256_min_ps(_mm256_max_ps(index.v, _mm256_setzero_ps()), _mm256_set1_ps(255));
    return _mm256_i32gather_epi32(table, _mm256_cvttps_epi32(inside), 4);
  }
  // Signed byte I of each lane's four.
  template <int I>
  static Avx2Vector byte(Bytes bytes) {
    return {_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(bytes, 24 - 8 * I), 24))};
  }
};
Avx2Vector fma(Avx2Vector a, Avx2Vector b, Avx2Vector c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
Avx2Vector mul(Avx2Vector a, Avx2Vector b) {
  return {_mm256_mul_ps(a.v, b.v)};
}
Avx2Vector add(Avx2Vector a, Avx2Vector b) {
  return {_mm256_add_ps(a.v, b.v)};
}
Avx2Vector min(Avx2Vector a, Avx2Vector b) {
  return {_mm256_min_ps(a.v, b.v)};
}
// a < b ? x : y
Avx2Vector if_less(Avx2Vector a, Avx2Vector b, Avx2Vector x, Avx2Vector y) {
  return {_mm256_blendv_ps(y.v, x.v, _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ))};
}

}  // namespace

BlockSearch* new_trellis_search_avx2(Format format, int n_scales) {
  return new_trellis_search<Avx2Vector>(format, n_scales);
}

}  // namespace r1::quant
