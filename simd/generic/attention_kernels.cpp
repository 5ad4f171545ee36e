// qk and pv over f32, f16 and bf16 rows, for the baseline (AVX2, FMA, F16C). A row of MLA's cache serves every head, so
// a piece of it is loaded and widened once for four heads. Each result has its own accumulator and order: grouping
// changes no bit.
#include "simd/generic/attention_kernels.h"

#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "quant/fp8.h"
#include "simd/avx2/softmax_vector.h"
#include "simd/peak.h"

namespace r1::simd {
namespace {

struct F32 {
  using Element = float;
  static __m256 load8(const float* p) { return _mm256_loadu_ps(p); }
  static float load(const float* p) { return *p; }
};

struct F16 {
  using Element = std::uint16_t;
  static __m256 load8(const std::uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static float load(const std::uint16_t* p) { return quant::f16_to_f32(*p); }
};

struct Bf16 {
  using Element = std::uint16_t;
  static __m256 load8(const std::uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  static float load(const std::uint16_t* p) { return quant::bf16_to_f32(*p); }
};

float sum_lanes(__m256 v) {
  const __m128 quad = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 pair = _mm_add_ps(quad, _mm_movehl_ps(quad, quad));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
}

// Not inline: among its callers' loops GCC 12 has no registers left for addresses.
template <class Row, int NH, int NKV>
[[gnu::noinline]] void qk_tile(const float* q, std::size_t ldq, const typename Row::Element* kv, std::size_t ld_kv,
                               std::uint32_t d, float* scores, std::size_t lds) {
  // In registers, if every loop over it is unrolled; else GCC 12 stores it after every product.
  __m256 acc[NH][NKV];
#pragma GCC unroll 4
  for (int h = 0; h < NH; ++h) {
#pragma GCC unroll 2
    for (int j = 0; j < NKV; ++j) acc[h][j] = _mm256_setzero_ps();
  }
  std::uint32_t i = 0;
  for (; i + 8 <= d; i += 8) {
    __m256 row[NKV];
#pragma GCC unroll 2
    for (int j = 0; j < NKV; ++j) row[j] = Row::load8(kv + static_cast<std::size_t>(j) * ld_kv + i);
#pragma GCC unroll 4
    for (int h = 0; h < NH; ++h) {
      const __m256 query = _mm256_loadu_ps(q + static_cast<std::size_t>(h) * ldq + i);
#pragma GCC unroll 2
      for (int j = 0; j < NKV; ++j) acc[h][j] = _mm256_fmadd_ps(query, row[j], acc[h][j]);
    }
  }
#pragma GCC unroll 4
  for (int h = 0; h < NH; ++h) {
#pragma GCC unroll 2
    for (int j = 0; j < NKV; ++j) {
      float sum = sum_lanes(acc[h][j]);
      for (std::uint32_t k = i; k < d; ++k) {
        sum = std::fma(q[static_cast<std::size_t>(h) * ldq + k],
                       Row::load(kv + static_cast<std::size_t>(j) * ld_kv + k), sum);
      }
      scores[static_cast<std::size_t>(h) * lds + static_cast<std::size_t>(j)] = sum;
    }
  }
}

template <class Row>
void qk_rows(const float* q, std::size_t ldq, std::uint32_t n_heads, const void* rows, std::size_t ld_kv,
             std::uint32_t n_kv, std::uint32_t d, float* scores, std::size_t lds) {
  const auto* kv = static_cast<const typename Row::Element*>(rows);
  std::uint32_t h = 0;
  const auto heads = [&]<int NH>() {
    for (; h + NH <= n_heads; h += NH) {
      std::uint32_t j = 0;
      for (; j + 2 <= n_kv; j += 2)
        qk_tile<Row, NH, 2>(q + h * ldq, ldq, kv + j * ld_kv, ld_kv, d, scores + h * lds + j, lds);
      if (j < n_kv) qk_tile<Row, NH, 1>(q + h * ldq, ldq, kv + j * ld_kv, ld_kv, d, scores + h * lds + j, lds);
    }
  };
  heads.template operator()<4>();
  heads.template operator()<1>();
}

// out[h, i … i + 8·NV) for NH heads over all rows.
template <class Row, int NH, int NV>
void pv_tile(const float* p, std::size_t ldp, const typename Row::Element* kv, std::size_t ld_kv, std::uint32_t n_kv,
             float* out, std::size_t ldo) {
  __m256 acc[NH][NV];
#pragma GCC unroll 4
  for (int h = 0; h < NH; ++h) {
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v)
      acc[h][v] = _mm256_loadu_ps(out + static_cast<std::size_t>(h) * ldo + 8 * static_cast<std::size_t>(v));
  }
  for (std::uint32_t j = 0; j < n_kv; ++j) {
    __m256 row[NV];
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) row[v] = Row::load8(kv + j * ld_kv + 8 * static_cast<std::size_t>(v));
#pragma GCC unroll 4
    for (int h = 0; h < NH; ++h) {
      const __m256 weight = _mm256_broadcast_ss(p + static_cast<std::size_t>(h) * ldp + j);
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) acc[h][v] = _mm256_fmadd_ps(weight, row[v], acc[h][v]);
    }
  }
#pragma GCC unroll 4
  for (int h = 0; h < NH; ++h) {
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v)
      _mm256_storeu_ps(out + static_cast<std::size_t>(h) * ldo + 8 * static_cast<std::size_t>(v), acc[h][v]);
  }
}

// Columns i … i + 8·NV of all heads, four at a time: for all but the first, the rows' pieces are in the first-level
// cache.
template <class Row, int NV>
void pv_columns(const float* p, std::size_t ldp, std::uint32_t n_heads, const typename Row::Element* kv,
                std::size_t ld_kv, std::uint32_t n_kv, std::uint32_t i, float* out, std::size_t ldo) {
  std::uint32_t h = 0;
  for (; h + 4 <= n_heads; h += 4) pv_tile<Row, 4, NV>(p + h * ldp, ldp, kv + i, ld_kv, n_kv, out + h * ldo + i, ldo);
  for (; h < n_heads; ++h) pv_tile<Row, 1, NV>(p + h * ldp, ldp, kv + i, ld_kv, n_kv, out + h * ldo + i, ldo);
}

template <class Row>
void pv_rows(const float* p, std::size_t ldp, std::uint32_t n_heads, const void* rows, std::size_t ld_kv,
             std::uint32_t n_kv, std::uint32_t d, float* out, std::size_t ldo) {
  const auto* kv = static_cast<const typename Row::Element*>(rows);
  std::uint32_t i = 0;
  for (; i + 16 <= d; i += 16) pv_columns<Row, 2>(p, ldp, n_heads, kv, ld_kv, n_kv, i, out, ldo);
  for (; i + 8 <= d; i += 8) pv_columns<Row, 1>(p, ldp, n_heads, kv, ld_kv, n_kv, i, out, ldo);
  for (; i < d; ++i) {
    for (std::uint32_t h = 0; h < n_heads; ++h) {
      float sum = out[h * ldo + i];
      for (std::uint32_t j = 0; j < n_kv; ++j) sum = std::fma(p[h * ldp + j], Row::load(kv + j * ld_kv + i), sum);
      out[h * ldo + i] = sum;
    }
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

void store_kv(KvType type, const float* x, std::size_t n, void* out) {
  if (type == KvType::f32) {
    std::memcpy(out, x, n * sizeof(float));
    return;
  }
  auto* halves = static_cast<std::uint16_t*>(out);
  std::size_t i = 0;
  if (type == KvType::f16) {
    for (; i + 8 <= n; i += 8) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(halves + i),
                       _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    }
    for (; i < n; ++i) halves[i] = quant::f32_to_f16(x[i]);
    return;
  }
  for (; i < n; ++i) halves[i] = quant::f32_to_bf16(x[i]);
}

float round_to_bf16(const float* x, std::size_t n, float* out) {
  const auto round = [](__m256 v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
    const __m256 rounded = _mm256_castsi256_ps(_mm256_and_si256(sum, _mm256_set1_epi32(-0x10000)));
    return _mm256_blendv_ps(rounded, _mm256_add_ps(v, v), _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  };
  __m256 sums = _mm256_setzero_ps();
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 rounded = round(_mm256_loadu_ps(x + i));
    _mm256_storeu_ps(out + i, rounded);
    sums = _mm256_add_ps(sums, rounded);
  }
  if (i < n) {
    float tail[8] = {};
    std::memcpy(tail, x + i, (n - i) * sizeof(float));
    const __m256 rounded = round(_mm256_loadu_ps(tail));
    sums = _mm256_add_ps(sums, rounded);
    _mm256_storeu_ps(tail, rounded);
    std::memcpy(out + i, tail, (n - i) * sizeof(float));
  }
  return sum_lanes(sums);
}

std::uint64_t peak_f32(std::uint64_t n) {
  const __m256 x = _mm256_set1_ps(0.5f);
  return multiply_adds<8>(n, _mm256_setzero_ps(), [&](__m256 sum) {
    sum = _mm256_fmadd_ps(x, x, sum);
    asm volatile("" : "+x"(sum));
    return sum;
  });
}

}  // namespace

void use_attention_kernels(Kernels& kernels) {
  kernels.qk = qk;
  kernels.pv = pv;
  kernels.store_kv = store_kv;
  kernels.round_to_bf16 = round_to_bf16;
  kernels.softmax_part = softmax_part<SoftmaxVector256>;
  kernels.peak_f32 = peak_f32;
}

}  // namespace r1::simd
