// Prefill attention for AVX2 with AVX-VNNI.
#include "simd/avx2/prefill_vector.h"
#include "simd/avx2_vnni/gemv.h"
#include "simd/kernels.h"
#include "simd/prefill_kernels.h"

namespace r1::simd {
namespace {

using Sum = Prefill256::Sum;

struct BytesByVnni : PrefillBytes256 {
  static constexpr int tile_queries = 4, tile_registers = 1;
  using Keys = Sum;
  using Query = __m256i;
  using Weight = __m256i;
  struct Values {
    __m256i low, high;
  };
  static Keys load_keys(const std::byte* p) { return {prefill_load(p), prefill_load(p + 32)}; }
  static Values load_values(const std::byte* p) { return {prefill_load(p), prefill_load(p + 32)}; }
  static Query query(const std::byte* p) { return prefill_broadcast(p); }
  static Weight weight(const std::byte* p) { return prefill_broadcast(p); }
  static Sum dot(const Sum& sum, const Keys& keys, __m256i query) {
    return {_mm256_dpbusd_epi32(sum.low, keys.low, query), _mm256_dpbusd_epi32(sum.high, keys.high, query)};
  }
  static Sum dot(const Sum& sum, __m256i weight, const Values& values) {
    return {_mm256_dpbusd_epi32(sum.low, weight, values.low), _mm256_dpbusd_epi32(sum.high, weight, values.high)};
  }
};

struct WordsByVnni : PrefillWords256 {
  static constexpr int tile_queries = 4, tile_registers = 1;
  static Sum dot(const Sum& sum, const Keys& keys, __m256i query) {
    return {_mm256_dpwssd_epi32(sum.low, keys.low, query), _mm256_dpwssd_epi32(sum.high, keys.high, query)};
  }
  static Sum dot(const Sum& sum, __m256i weight, const Values& values) { return dot(sum, values, weight); }
};

}  // namespace

void use_avx2_vnni_prefill_attention(Kernels& kernels) {
  kernels.prefill_page = prefill_page<Prefill256, BytesByVnni, WordsByVnni>;
}

}  // namespace r1::simd
