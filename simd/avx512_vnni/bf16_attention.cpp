// Attention over a bf16 cache with AVX-512's bf16 dot product: pairs of bf16 products, summed in f32.
#include <immintrin.h>

#include <algorithm>

#include "simd/avx512_vnni/gemv.h"
#include "simd/peak.h"

namespace r1::simd {
namespace {

constexpr std::uint32_t lanes = 32;    // elements of a register
constexpr std::uint32_t piece = 1024;  // elements of a tile's queries on the stack
constexpr int tile_rows = 4;

__m512i load_elements(const std::uint16_t* p) {
  return _mm512_loadu_si512(p);
}
__m512 dot(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

// n values, which bf16 holds exactly, then zeros up to a multiple of 32.
void narrow(const float* x, std::uint32_t n, std::uint16_t* out) {
  for (std::uint32_t i = 0; i < n; i += lanes) {
    const auto mask = static_cast<std::uint32_t>((std::uint64_t{1} << std::min(lanes, n - i)) - 1);
    const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x + i);
    const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), x + i + 16);
    _mm512_storeu_si512(out + i, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
  }
}

// Sixteen lanes of four rows → lane r holds four sums of row r.
__m512 sum_rows(const __m512* rows) {
  const auto half = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  };
  return half(half(rows[0], rows[1]), half(rows[2], rows[3]));
}
__m512 sum_pairs(__m512 a, __m512 b) {  // (a0 + a2, a1 + a3, b0 + b2, b1 + b3) in each lane
  const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}

// Scores of NH ≤ 4 heads with four rows, added to what is there where `add`; q [NH, ldq] padded with zeros.
template <int NH>
void qk_tile(const std::uint16_t* q, std::size_t ldq, const std::uint16_t* const* rows, std::uint32_t d, float* scores,
             std::size_t lds, std::uint32_t n_rows, bool add) {
  __m512 acc[4][tile_rows];
  for (auto& head : acc) {
    for (auto& a : head) a = _mm512_setzero_ps();
  }
  std::uint32_t i = 0;
  const auto step = [&](auto&& load) {
    __m512i row[tile_rows];
#pragma GCC unroll 4
    for (int j = 0; j < tile_rows; ++j) row[j] = load(rows[j] + i);
#pragma GCC unroll 4
    for (int h = 0; h < NH; ++h) {
      const __m512i query = load_elements(q + static_cast<std::size_t>(h) * ldq + i);
#pragma GCC unroll 4
      for (int j = 0; j < tile_rows; ++j) acc[h][j] = dot(acc[h][j], query, row[j]);
    }
  };
  for (; i + lanes <= d; i += lanes) step([](const std::uint16_t* p) { return load_elements(p); });
  if (i < d) {
    const auto mask = static_cast<__mmask32>((1u << (d - i)) - 1);
    step([&](const std::uint16_t* p) { return _mm512_maskz_loadu_epi16(mask, p); });
  }
  const __m512 a = sum_pairs(sum_rows(acc[0]), sum_rows(acc[1])), b = sum_pairs(sum_rows(acc[2]), sum_rows(acc[3]));
  const __m512i by_heads = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512 sums =
      _mm512_permutexvar_ps(by_heads, _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd)));
  const __m128 of_head[4] = {_mm512_castps512_ps128(sums), _mm512_extractf32x4_ps(sums, 1),
                             _mm512_extractf32x4_ps(sums, 2), _mm512_extractf32x4_ps(sums, 3)};
  const auto mask = static_cast<__mmask8>((1u << n_rows) - 1);
  for (int h = 0; h < NH; ++h) {
    float* to = scores + static_cast<std::size_t>(h) * lds;
    _mm_mask_storeu_ps(to, mask, add ? _mm_add_ps(_mm_maskz_loadu_ps(mask, to), of_head[h]) : of_head[h]);
  }
}

template <int NH>
void qk_heads(const float* q, std::size_t ldq, const std::uint16_t* kv, std::size_t ld_kv, std::uint32_t n_kv,
              std::uint32_t d, float* scores, std::size_t lds, bool add) {
  alignas(64) std::uint16_t narrow_q[NH * piece];
  const std::size_t ld_narrow = (d + lanes - 1) / lanes * lanes;
  for (std::size_t h = 0; h < NH; ++h) narrow(q + h * ldq, d, narrow_q + h * ld_narrow);
  for (std::uint32_t j = 0; j < n_kv; j += tile_rows) {
    const std::uint32_t n_rows = std::min<std::uint32_t>(tile_rows, n_kv - j);
    const std::uint16_t* rows[tile_rows];
    for (std::uint32_t r = 0; r < tile_rows; ++r) rows[r] = kv + (j + std::min(r, n_rows - 1)) * ld_kv;
    qk_tile<NH>(narrow_q, ld_narrow, rows, d, scores + j, lds, n_rows, add);
  }
}

void bf16_qk(const float* q, std::size_t ldq, std::uint32_t n_heads, const std::uint16_t* kv, std::size_t ld_kv,
             std::uint32_t n_kv, std::uint32_t d, float* scores, std::size_t lds) {
  std::uint32_t h = 0;
  const auto heads = [&]<int NH>() {
    for (; h + NH <= n_heads; h += NH) {
      for (std::uint32_t i = 0; i < d; i += piece) {
        qk_heads<NH>(q + h * ldq + i, ldq, kv + i, ld_kv, n_kv, std::min(piece, d - i), scores + h * lds, lds, i > 0);
      }
    }
  };
  heads.template operator()<4>();
  heads.template operator()<2>();
  heads.template operator()<1>();
}

// Elements of rows r and r + 1 side by side. In a register they come as vpunpck{l,h}wd leave them; the second step puts
// 16 elements in order.
void bf16_values(const std::uint16_t* kv, std::size_t ld_kv, std::uint32_t n_kv, std::uint32_t width,
                 std::uint32_t page_rows, std::uint16_t* values) {
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11),
                second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  const std::size_t strip = std::size_t{page_rows} * 16;  // elements of a strip of 16 of all rows
  for (std::uint32_t j = 0; j < n_kv; j += 2) {
    const std::uint16_t* row = kv + j * ld_kv;
    const std::uint32_t next_mask = j + 1 < n_kv ? ~0u : 0u;
    for (std::uint32_t i = 0; i < width; i += lanes) {
      const auto mask = static_cast<std::uint32_t>((std::uint64_t{1} << std::min(lanes, width - i)) - 1);
      const __m512i a = _mm512_maskz_loadu_epi16(mask, row + i);
      const __m512i b = _mm512_maskz_loadu_epi16(mask & next_mask, row + ld_kv + i);
      const __m512i low = _mm512_unpacklo_epi16(a, b), high = _mm512_unpackhi_epi16(a, b);
      std::uint16_t* out = values + i / 16 * strip + std::size_t{j} * 16;
      _mm512_storeu_si512(out, _mm512_permutex2var_epi64(low, first, high));
      if (i + 16 < width) _mm512_storeu_si512(out + strip, _mm512_permutex2var_epi64(low, second, high));
    }
  }
}

constexpr std::uint32_t weight_rows = 256, weight_heads = 16;  // of a block of weights on the stack

// Two strips of elements, NS ≤ 2 of them, and NH heads.
template <int NH, int NS>
void pv_tile(const std::uint16_t* p, const std::uint16_t* values, std::size_t strip, std::uint32_t n_pairs, float* out,
             std::size_t ldo, __mmask16 mask) {
  const auto mask_of = [&](int s) { return s + 1 < NS ? __mmask16{0xffff} : mask; };
  __m512 acc[NH][NS];
  for (int h = 0; h < NH; ++h) {
    for (int s = 0; s < NS; ++s) {
      acc[h][s] =
          _mm512_maskz_loadu_ps(mask_of(s), out + static_cast<std::size_t>(h) * ldo + 16 * static_cast<std::size_t>(s));
    }
  }
  for (std::uint32_t pair = 0; pair < n_pairs; ++pair) {
    __m512i value[NS];
#pragma GCC unroll 2
    for (int s = 0; s < NS; ++s)
      value[s] = load_elements(values + static_cast<std::size_t>(s) * strip + std::size_t{pair} * lanes);
#pragma GCC unroll 8
    for (int h = 0; h < NH; ++h) {
      std::int32_t two = 0;
      __builtin_memcpy(&two, p + static_cast<std::size_t>(h) * weight_rows + std::size_t{pair} * 2, sizeof two);
      const __m512i weight = _mm512_set1_epi32(two);
#pragma GCC unroll 2
      for (int s = 0; s < NS; ++s) acc[h][s] = dot(acc[h][s], weight, value[s]);
    }
  }
  for (int h = 0; h < NH; ++h) {
    for (int s = 0; s < NS; ++s) {
      _mm512_mask_storeu_ps(out + static_cast<std::size_t>(h) * ldo + 16 * static_cast<std::size_t>(s), mask_of(s),
                            acc[h][s]);
    }
  }
}

void bf16_pv(const float* p, std::size_t ldp, std::uint32_t n_heads, const std::uint16_t* values,
             std::uint32_t page_rows, std::uint32_t n_kv, std::uint32_t width, float* out, std::size_t ldo) {
  alignas(64) std::uint16_t weights[weight_heads * weight_rows];
  const std::size_t strip = std::size_t{page_rows} * 16;
  for (std::uint32_t first_head = 0; first_head < n_heads; first_head += weight_heads) {
    const std::uint32_t n = std::min(weight_heads, n_heads - first_head);
    for (std::uint32_t first_row = 0; first_row < n_kv; first_row += weight_rows) {
      const std::uint32_t n_rows = std::min(weight_rows, n_kv - first_row);
      for (std::uint32_t h = 0; h < n; ++h)
        narrow(p + (first_head + h) * ldp + first_row, n_rows, weights + std::size_t{h} * weight_rows);
      const std::uint16_t* from = values + std::size_t{first_row} * 16;
      // The elements of a tile stay in the first-level cache while all heads go over them.
      for (std::uint32_t i = 0; i < width; i += 32) {
        std::uint32_t h = 0;
        const auto heads = [&]<int NH>() {
          for (; h + NH <= n; h += NH) {
            const std::uint16_t *w = weights + std::size_t{h} * weight_rows, *v = from + i / 16 * strip;
            float* to = out + (first_head + h) * ldo + i;
            const std::uint32_t left = width - i, n_pairs = (n_rows + 1) / 2;
            if (left > 16) {
              pv_tile<NH, 2>(w, v, strip, n_pairs, to, ldo,
                             static_cast<__mmask16>((1u << std::min(16u, left - 16)) - 1));
            } else {
              pv_tile<NH, 1>(w, v, strip, n_pairs, to, ldo, static_cast<__mmask16>((1u << left) - 1));
            }
          }
        };
        heads.template operator()<8>();
        heads.template operator()<4>();
        heads.template operator()<2>();
        heads.template operator()<1>();
      }
    }
  }
}

std::uint64_t peak_bf16(std::uint64_t n) {
  const __m512i x = _mm512_set1_epi16(0x3f80);
  return multiply_adds<lanes>(n, _mm512_setzero_ps(), [&](__m512 sum) {
    sum = dot(sum, x, x);
    asm volatile("" : "+v"(sum));
    return sum;
  });
}

}  // namespace

void use_avx512_bf16_attention(Kernels& kernels) {
  kernels.bf16_qk = bf16_qk;
  kernels.bf16_values = bf16_values;
  kernels.bf16_pv = bf16_pv;
  kernels.peak_bf16 = peak_bf16;
}

}  // namespace r1::simd
