// Prefill attention for AVX-512 without VNNI. Bytes are widened to words first: vpmaddubsw would saturate at 255 · 127.
#include "simd/avx512/gemv.h"
#include "simd/avx512/prefill_vector.h"
#include "simd/kernels.h"
#include "simd/prefill_halves.h"
#include "simd/prefill_kernels.h"

namespace r1::simd {
namespace {

struct BytesByMadd : PrefillBytes512 {
  static constexpr int tile_queries = 8, tile_registers = 2;
  // Bytes 0 and 2 of each dword as words, and bytes 1 and 3. Two types, so that dot knows its operands.
  struct Keys {
    __m512i even, odd;
  };
  using Values = Keys;
  using Query = Keys;
  using Weight = Keys;

  static Keys widen_unsigned(__m512i x) {
    return {_mm512_and_si512(x, _mm512_set1_epi16(0xff)), _mm512_srli_epi16(x, 8)};
  }
  static Keys widen_signed(__m512i x) {
    return {_mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8), _mm512_srai_epi16(x, 8)};
  }
  static Keys load_keys(const std::byte* p) { return widen_unsigned(prefill_load(p)); }
  static Values load_values(const std::byte* p) { return widen_signed(prefill_load(p)); }
  static Query query(const std::byte* p) { return widen_signed(prefill_broadcast(p)); }
  static Weight weight(const std::byte* p) { return widen_unsigned(prefill_broadcast(p)); }
  static __m512i dot(__m512i sum, const Keys& a, const Keys& b) {
    return _mm512_add_epi32(sum, _mm512_add_epi32(_mm512_madd_epi16(a.even, b.even), _mm512_madd_epi16(a.odd, b.odd)));
  }
};

// Queries and weights are widened beforehand: of 92 operations for eight queries by two registers of keys, 24 were
// that.
struct BytesByWords : BytesByMadd, PrefillHalves {
  static Query query(const std::byte* p) { return {prefill_broadcast(p), prefill_broadcast(p + 4)}; }
  static Weight weight(const std::byte* p) { return query(p); }
  template <int>
  static void store_weights(std::byte* row, std::uint32_t j, __m512i x, HeldWeights&) {
    store_halves(row, j, _mm512_cvtsepi32_epi16(x));
  }
};

struct WordsByMadd : PrefillWords512 {
  static constexpr int tile_queries = 12, tile_registers = 2;
  static __m512i dot(__m512i sum, __m512i a, __m512i b) { return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)); }
};

}  // namespace

void use_avx512_prefill_attention(Kernels& kernels) {
  kernels.prefill_page = prefill_page<Prefill512, BytesByWords, WordsByMadd, BytesByMadd>;
}

}  // namespace r1::simd
