// Attention over a bf16 cache with AVX-512's bf16 dot product: pairs of bf16 products, summed in f32.
#include <immintrin.h>

#include <algorithm>

#include "simd/avx512_vnni/gemv.h"
#include "simd/peak.h"

namespace r1::simd {
namespace {

constexpr std::uint32_t lanes = 32;                      // elements of a register
constexpr std::uint32_t block_heads = 16, piece = 1024;  // of queries on the stack
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

// Sums of 16 registers' lanes, two registers at a time: half of the lanes of each stay where they are and the others
// come to them, so that an addition takes one blend and one shuffle, which is what competes with the products. They
// leave 16-, 8-, 4- and 2-lane sums.
__m512 halves_16(__m512 a, __m512 b) {  // lanes of four: a a b b
  return _mm512_add_ps(_mm512_mask_blend_ps(0xff00, a, b), _mm512_shuffle_f32x4(a, b, 0x4e));
}
__m512 halves_8(__m512 a, __m512 b) {  // a b a b
  const __m512i others = _mm512_setr_epi64(2, 3, 8, 9, 6, 7, 12, 13);
  return _mm512_add_ps(_mm512_mask_blend_ps(0xf0f0, a, b),
                       _mm512_castpd_ps(_mm512_permutex2var_pd(_mm512_castps_pd(a), others, _mm512_castps_pd(b))));
}
__m512 halves_4(__m512 a, __m512 b) {  // in each lane of four: a a b b
  return _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, a, b), _mm512_shuffle_ps(a, b, 0x4e));
}
__m512 halves_2(__m512 a, __m512 b) {  // a b a b
  const __m512i others = _mm512_setr_epi32(1, 16, 3, 18, 5, 20, 7, 22, 9, 24, 11, 26, 13, 28, 15, 30);
  return _mm512_add_ps(_mm512_mask_blend_ps(0xaaaa, a, b), _mm512_permutex2var_ps(a, others, b));
}

// Four heads' sums with four rows, [head, row]. Always inline: sums that have an address are stored after every
// product.
[[gnu::always_inline]] inline __m512 sum_tile(const __m512 (&acc)[4][tile_rows]) {
  __m512 head[4];
#pragma GCC unroll 4
  for (int h = 0; h < 4; ++h) head[h] = halves_8(halves_16(acc[h][0], acc[h][1]), halves_16(acc[h][2], acc[h][3]));
  const __m512 sums = halves_2(halves_4(head[0], head[1]), halves_4(head[2], head[3]));
  // Rows lie in lanes of four, 0 2 1 3, and heads in each, 0 2 1 3.
  return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15), sums);
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
  const __m512 sums = sum_tile(acc);
  const __m128 of_head[4] = {_mm512_castps512_ps128(sums), _mm512_extractf32x4_ps(sums, 1),
                             _mm512_extractf32x4_ps(sums, 2), _mm512_extractf32x4_ps(sums, 3)};
  const auto mask = static_cast<__mmask8>((1u << n_rows) - 1);
  for (int h = 0; h < NH; ++h) {
    float* to = scores + static_cast<std::size_t>(h) * lds;
    _mm_mask_storeu_ps(to, mask, add ? _mm_add_ps(_mm_maskz_loadu_ps(mask, to), of_head[h]) : of_head[h]);
  }
}

void bf16_qk(const float* q, std::size_t ldq, std::uint32_t n_heads, const std::uint16_t* kv, std::size_t ld_kv,
             std::uint32_t n_kv, std::uint32_t d, float* scores, std::size_t lds) {
  alignas(64) std::uint16_t queries[block_heads * piece];
  for (std::uint32_t first_head = 0; first_head < n_heads; first_head += block_heads) {
    const std::uint32_t n = std::min(block_heads, n_heads - first_head);
    for (std::uint32_t i = 0; i < d; i += piece) {
      const std::uint32_t width = std::min(piece, d - i);
      const std::size_t ld = (width + lanes - 1) / lanes * lanes;
      for (std::uint32_t h = 0; h < n; ++h) narrow(q + (first_head + h) * ldq + i, width, queries + h * ld);
      // Heads outside: the rows come in long streams, which the prefetchers follow.
      std::uint32_t h = 0;
      const auto heads = [&]<int NH>() {
        for (; h + NH <= n; h += NH) {
          for (std::uint32_t j = 0; j < n_kv; j += tile_rows) {
            const std::uint32_t n_rows = std::min<std::uint32_t>(tile_rows, n_kv - j);
            const std::uint16_t* rows[tile_rows];
            for (std::uint32_t r = 0; r < tile_rows; ++r) rows[r] = kv + (j + std::min(r, n_rows - 1)) * ld_kv + i;
            qk_tile<NH>(queries + h * ld, ld, rows, width, scores + (first_head + h) * lds + j, lds, n_rows, i > 0);
          }
        }
      };
      heads.template operator()<4>();
      heads.template operator()<2>();
      heads.template operator()<1>();
    }
  }
}

// Elements of rows r and r + 1 side by side. In a register they come as vpunpck{l,h}wd leave them; the second step puts
// 16 elements in order.
void bf16_values(const std::uint16_t* kv, std::size_t ld_kv, std::uint32_t n_kv, std::uint32_t width,
                 std::uint32_t page_rows, std::uint16_t* values) {
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11),
                second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  const std::size_t strip = std::size_t{page_rows} * 16;  // elements of a strip of 16 of all rows
  for (std::uint32_t i = 0; i < width; i += lanes) {      // outside: strips lie a multiple of 4 KiB apart
    const auto mask = static_cast<std::uint32_t>((std::uint64_t{1} << std::min(lanes, width - i)) - 1);
    std::uint16_t* out = values + i / 16 * strip;
    for (std::uint32_t j = 0; j < n_kv; j += 2, out += lanes) {
      const std::uint16_t* row = kv + j * ld_kv + i;
      const __m512i a = _mm512_maskz_loadu_epi16(mask, row);
      const __m512i b = _mm512_maskz_loadu_epi16(j + 1 < n_kv ? mask : 0, row + ld_kv);
      const __m512i low = _mm512_unpacklo_epi16(a, b), high = _mm512_unpackhi_epi16(a, b);
      _mm512_storeu_si512(out, _mm512_permutex2var_epi64(low, first, high));
      if (i + 16 < width) _mm512_storeu_si512(out + strip, _mm512_permutex2var_epi64(low, second, high));
    }
  }
}

constexpr std::uint32_t weight_rows = 256;  // of a block of weights on the stack

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
  alignas(64) std::uint16_t weights[block_heads * weight_rows];
  const std::size_t strip = std::size_t{page_rows} * 16;
  for (std::uint32_t first_head = 0; first_head < n_heads; first_head += block_heads) {
    const std::uint32_t n = std::min(block_heads, n_heads - first_head);
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
  return multiply_adds<lanes, 24>(n, _mm512_setzero_ps(), [&](__m512 sum) {
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
