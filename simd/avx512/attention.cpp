// Attention over f32, f16 and bf16 rows for AVX-512. The bits are those of generic/attention_kernels.cpp: a register of
// qk holds eight lanes of two rows, each with the accumulator and the order that it has there.
#include <immintrin.h>

#include <algorithm>
#include <cmath>

#include "quant/fp8.h"
#include "simd/avx512/gemv.h"
#include "simd/avx512/softmax_vector.h"
#include "simd/peak.h"

namespace r1::simd {
namespace {

struct F32 {
  using Element = float;
  static __m512 load16(const float* p) { return _mm512_loadu_ps(p); }
  static __m512 load_some(const float* p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }
  static __m512 load_two(const float* a, const float* b) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(a)), _mm256_loadu_ps(b), 1);
  }
  static float load(const float* p) { return *p; }
};

struct Halves {
  using Element = std::uint16_t;
  static __m256i two(const std::uint16_t* a, const std::uint16_t* b) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a))),
                                   _mm_loadu_si128(reinterpret_cast<const __m128i*>(b)), 1);
  }
};

struct F16 : Halves {
  static __m512 load16(const std::uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i_u*)p)); }
  static __m512 load_some(const std::uint16_t* p, __mmask16 mask) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p));
  }
  static __m512 load_two(const std::uint16_t* a, const std::uint16_t* b) { return _mm512_cvtph_ps(two(a, b)); }
  static float load(const std::uint16_t* p) { return quant::f16_to_f32(*p); }
};

struct Bf16 : Halves {
  static __m512 widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
  static __m512 load16(const std::uint16_t* p) { return widen(_mm256_loadu_si256((const __m256i_u*)p)); }
  static __m512 load_some(const std::uint16_t* p, __mmask16 mask) { return widen(_mm256_maskz_loadu_epi16(mask, p)); }
  static __m512 load_two(const std::uint16_t* a, const std::uint16_t* b) { return widen(two(a, b)); }
  static float load(const std::uint16_t* p) { return quant::bf16_to_f32(*p); }
};

constexpr int qk_pairs = 4;  // of rows, in a tile
constexpr std::uint32_t qk_rows_of_tile = 2 * qk_pairs;

// Widening halves in the loop takes 12 of 28 operations of Intel's two 512-bit pipes (57 % of FMA were measured on a
// Granite Rapids). For MLA's heads, which share each row, it is done once for all of a call's, which are sixteen.
constexpr std::uint32_t many_heads = 16;
constexpr std::uint32_t qk_wide_width = 1024;                      // 576: 18 KB of the first-level cache
constexpr std::uint32_t pv_wide_rows = 128, pv_wide_columns = 32;  // 16 KB

// Where a tile of qk finds elements i … i + 7 of a pair of rows.
template <class Row>
struct RowPairs {
  const typename Row::Element* const* rows;  // [qk_rows_of_tile]
  [[nodiscard]] __m512 at(int pair, std::uint32_t i) const {
    return Row::load_two(rows[2 * pair] + i, rows[2 * pair + 1] + i);
  }
};
struct WidePairs {
  const float* wide;      // [pair, d / 8, 2 rows, 8]
  std::size_t pair_size;  // d rounded down to 8, times 2
  [[nodiscard]] __m512 at(int pair, std::uint32_t i) const {
    return _mm512_load_ps(wide + static_cast<std::size_t>(pair) * pair_size + 2 * std::size_t{i});
  }
};

// Eight lanes of eight rows, two in a register → per row l0+l4, l1+l5, … then their pairs: lane r holds (s0 + s2,
// s1 + s3) of row r and of row 4 + r.
inline __m512 sum_quads(const __m512* pairs_of_rows) {
  const auto quads = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  };
  const __m512d low = _mm512_castps_pd(quads(pairs_of_rows[0], pairs_of_rows[1]));
  const __m512d high = _mm512_castps_pd(quads(pairs_of_rows[2], pairs_of_rows[3]));
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
}

// Scores of NH heads with eight rows; scores [NH, lds].
template <class Row, int NH, class Pairs>
void qk_tile(const float* q, std::size_t ldq, const Pairs& pairs, const typename Row::Element* const* rows,
             std::uint32_t d, float* scores, std::size_t lds) {
  __m512 acc[NH][qk_pairs];  // in registers, if every loop over it is unrolled
#pragma GCC unroll 4
  for (auto& head : acc) {
#pragma GCC unroll 4
    for (auto& a : head) a = _mm512_setzero_ps();
  }
  std::uint32_t i = 0;
  for (; i + 8 <= d; i += 8) {
    __m512 row[qk_pairs];
#pragma GCC unroll 4
    for (int j = 0; j < qk_pairs; ++j) row[j] = pairs.at(j, i);
#pragma GCC unroll 4
    for (int h = 0; h < NH; ++h) {
      const __m512 query = _mm512_broadcast_f32x8(_mm256_loadu_ps(q + static_cast<std::size_t>(h) * ldq + i));
#pragma GCC unroll 4
      for (int j = 0; j < qk_pairs; ++j) acc[h][j] = _mm512_fmadd_ps(query, row[j], acc[h][j]);
    }
  }
  const __m512i by_rows = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
#pragma GCC unroll 4
  for (int h = 0; h < NH; h += 2) {
    const int other = h + 1 < NH ? h + 1 : h;
    const __m512 a = sum_quads(acc[h]), b = sum_quads(acc[other]);
    const __m512 sums =
        _mm512_permutexvar_ps(by_rows, _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd)));
    _mm256_storeu_ps(scores + static_cast<std::size_t>(h) * lds, _mm512_castps512_ps256(sums));
    if (other != h) _mm256_storeu_ps(scores + static_cast<std::size_t>(other) * lds, _mm512_extractf32x8_ps(sums, 1));
  }
  for (; i < d; ++i) {
    for (std::size_t h = 0; h < NH; ++h) {
      for (std::uint32_t j = 0; j < qk_rows_of_tile; ++j) {
        scores[h * lds + j] = std::fma(q[h * ldq + i], Row::load(rows[j] + i), scores[h * lds + j]);
      }
    }
  }
}

// Scores of n_heads heads with n_rows ≤ 8 rows.
template <class Row, class Pairs>
void qk_heads(const float* q, std::size_t ldq, std::uint32_t n_heads, const Pairs& pairs,
              const typename Row::Element* const* rows, std::uint32_t n_rows, std::uint32_t d, float* scores,
              std::size_t lds) {
  std::uint32_t h = 0;
  const auto heads = [&]<int NH>() {
    for (; h + NH <= n_heads; h += NH) {
      if (n_rows == qk_rows_of_tile) {
        qk_tile<Row, NH>(q + h * ldq, ldq, pairs, rows, d, scores + h * lds, lds);
        continue;
      }
      float some[NH * qk_rows_of_tile];
      qk_tile<Row, NH>(q + h * ldq, ldq, pairs, rows, d, some, qk_rows_of_tile);
      for (std::size_t one = 0; one < NH; ++one)
        std::copy_n(some + one * qk_rows_of_tile, n_rows, scores + (h + one) * lds);
    }
  };
  heads.template operator()<4>();
  heads.template operator()<2>();
  heads.template operator()<1>();
}

template <class Row>
void qk_rows(const float* q, std::size_t ldq, std::uint32_t n_heads, const void* kv_rows, std::size_t ld_kv,
             std::uint32_t n_kv, std::uint32_t d, float* scores, std::size_t lds) {
  const auto* kv = static_cast<const typename Row::Element*>(kv_rows);
  const bool widens = n_heads >= many_heads && d <= qk_wide_width;
  alignas(64) float wide[qk_rows_of_tile * qk_wide_width];
  // Few heads at a time where rows are widened for each tile: their queries, 2 KB each, and eight rows fit the
  // first-level cache.
  const std::uint32_t block_heads = widens ? n_heads : 8;
  for (std::uint32_t first = 0; first < n_heads; first += block_heads) {
    const std::uint32_t n = std::min(block_heads, n_heads - first);
    for (std::uint32_t j = 0; j < n_kv; j += qk_rows_of_tile) {
      const std::uint32_t n_rows = std::min(qk_rows_of_tile, n_kv - j);
      const typename Row::Element* rows[qk_rows_of_tile];
      for (std::uint32_t r = 0; r < qk_rows_of_tile; ++r) rows[r] = kv + (j + std::min(r, n_rows - 1)) * ld_kv;
      const RowPairs<Row> pairs{rows};
      const auto heads = [&](const auto& from) {
        qk_heads<Row>(q + first * ldq, ldq, n, from, rows, n_rows, d, scores + first * lds + j, lds);
      };
      if (!widens) {
        heads(pairs);
        continue;
      }
      const std::size_t pair_size = 2 * std::size_t{d / 8 * 8};
      for (int pair = 0; pair < qk_pairs; ++pair) {
        float* out = wide + static_cast<std::size_t>(pair) * pair_size;
        for (std::uint32_t i = 0; i + 8 <= d; i += 8, out += 16) _mm512_store_ps(out, pairs.at(pair, i));
      }
      heads(WidePairs{wide, pair_size});
    }
  }
}

// out[h, i … i + 16·NV) of NH heads over all rows; of the last register the lanes in `mask`.
template <class Row, int NH, int NV>
void pv_tile(const float* p, std::size_t ldp, const typename Row::Element* kv, std::size_t ld_kv, std::uint32_t n_kv,
             float* out, std::size_t ldo, __mmask16 mask) {
  constexpr __mmask16 all = 0xffff;
  __m512 acc[NH][NV];
  const auto mask_of = [&](int v) { return v + 1 < NV ? all : mask; };
#pragma GCC unroll 8
  for (int h = 0; h < NH; ++h) {
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) {
      acc[h][v] =
          _mm512_maskz_loadu_ps(mask_of(v), out + static_cast<std::size_t>(h) * ldo + 16 * static_cast<std::size_t>(v));
    }
  }
  for (std::uint32_t j = 0; j < n_kv; ++j) {
    const auto* from = kv + j * ld_kv;
    __m512 row[NV];
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) {
      const auto* at = from + 16 * static_cast<std::size_t>(v);
      row[v] = NV > 1 ? Row::load16(at) : Row::load_some(at, mask);
    }
#pragma GCC unroll 8
    for (int h = 0; h < NH; ++h) {
      const __m512 weight = _mm512_set1_ps(p[static_cast<std::size_t>(h) * ldp + j]);
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) acc[h][v] = _mm512_fmadd_ps(weight, row[v], acc[h][v]);
    }
  }
#pragma GCC unroll 8
  for (int h = 0; h < NH; ++h) {
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) {
      _mm512_mask_storeu_ps(out + static_cast<std::size_t>(h) * ldo + 16 * static_cast<std::size_t>(v), mask_of(v),
                            acc[h][v]);
    }
  }
}

// The columns of a tile for all heads.
template <class Row, int NV>
void pv_heads(const float* p, std::size_t ldp, std::uint32_t n_heads, const typename Row::Element* kv,
              std::size_t ld_kv, std::uint32_t n_kv, float* out, std::size_t ldo, __mmask16 mask) {
  std::uint32_t h = 0;
  const auto heads = [&]<int NH>() {
    for (; h + NH <= n_heads; h += NH)
      pv_tile<Row, NH, NV>(p + h * ldp, ldp, kv, ld_kv, n_kv, out + h * ldo, ldo, mask);
  };
  heads.template operator()<8>();
  heads.template operator()<4>();
  heads.template operator()<2>();
  heads.template operator()<1>();
}

template <class Row>
void pv_rows(const float* p, std::size_t ldp, std::uint32_t n_heads, const void* rows, std::size_t ld_kv,
             std::uint32_t n_kv, std::uint32_t d, float* out, std::size_t ldo) {
  const auto* kv = static_cast<const typename Row::Element*>(rows);
  std::uint32_t i = 0;
  for (; i + pv_wide_columns <= d; i += pv_wide_columns) {
    if (n_heads < many_heads) {
      pv_heads<Row, 2>(p, ldp, n_heads, kv + i, ld_kv, n_kv, out + i, ldo, 0xffff);
      continue;
    }
    alignas(64) float wide[pv_wide_rows * pv_wide_columns];
    for (std::uint32_t j = 0; j < n_kv; j += pv_wide_rows) {
      const std::uint32_t n = std::min(pv_wide_rows, n_kv - j);
      for (std::uint32_t r = 0; r < n; ++r) {
        for (std::uint32_t c = 0; c < pv_wide_columns; c += 16)
          _mm512_store_ps(wide + r * pv_wide_columns + c, Row::load16(kv + (j + r) * ld_kv + i + c));
      }
      pv_heads<F32, 2>(p + j, ldp, n_heads, wide, pv_wide_columns, n, out + i, ldo, 0xffff);
    }
  }
  for (; i < d; i += 16) {
    const auto mask = static_cast<__mmask16>((1u << std::min(16u, d - i)) - 1);
    pv_heads<Row, 1>(p, ldp, n_heads, kv + i, ld_kv, n_kv, out + i, ldo, mask);
  }
}

void qk(KvType type, const float* q, std::size_t ldq, std::uint32_t n_heads, const void* kv, std::size_t ld_kv,
        std::uint32_t n_kv, std::uint32_t d, float* scores, std::size_t lds) {
  switch (type) {
    case KvType::f32:
      return qk_rows<F32>(q, ldq, n_heads, kv, ld_kv, n_kv, d, scores, lds);
    case KvType::f16:
      return qk_rows<F16>(q, ldq, n_heads, kv, ld_kv, n_kv, d, scores, lds);
    case KvType::bf16:
      return qk_rows<Bf16>(q, ldq, n_heads, kv, ld_kv, n_kv, d, scores, lds);
    case KvType::q8:
      return;  // q8_qk
  }
}

void pv(KvType type, const float* p, std::size_t ldp, std::uint32_t n_heads, const void* kv, std::size_t ld_kv,
        std::uint32_t n_kv, std::uint32_t d, float* out, std::size_t ldo) {
  switch (type) {
    case KvType::f32:
      return pv_rows<F32>(p, ldp, n_heads, kv, ld_kv, n_kv, d, out, ldo);
    case KvType::f16:
      return pv_rows<F16>(p, ldp, n_heads, kv, ld_kv, n_kv, d, out, ldo);
    case KvType::bf16:
      return pv_rows<Bf16>(p, ldp, n_heads, kv, ld_kv, n_kv, d, out, ldo);
    case KvType::q8:
      return;  // q8_pv
  }
}

std::uint64_t peak_f32(std::uint64_t n) {
  const __m512 x = _mm512_set1_ps(0.5f);
  return multiply_adds<16>(n, _mm512_setzero_ps(), [&](__m512 sum) {
    sum = _mm512_fmadd_ps(x, x, sum);
    asm volatile("" : "+v"(sum));
    return sum;
  });
}

// What a product of bytes takes without VNNI. Written out, since GCC multiplies what does not change but once.
std::uint64_t peak_int8(std::uint64_t n) {
  const __m512i ones = _mm512_set1_epi16(1), x = _mm512_set1_epi8(1);
  return multiply_adds<64>(n, _mm512_setzero_si512(), [&](__m512i sum) {
    __m512i product;
    asm volatile(
        "vpmaddubsw %2, %2, %1\n\t"
        "vpmaddwd %3, %1, %1\n\t"
        "vpaddd %1, %0, %0"
        : "+v"(sum), "=&v"(product)
        : "v"(x), "v"(ones));
    return sum;
  });
}

}  // namespace

void use_avx512_attention(Kernels& kernels) {
  kernels.qk = qk;
  kernels.pv = pv;
  kernels.softmax_part = softmax_part<SoftmaxVector512>;
  kernels.q8_weights = q8_weights<SoftmaxVector512>;
  kernels.peak_f32 = peak_f32;
  kernels.peak_int8 = peak_int8;
}

}  // namespace r1::simd
