// GEMV and small-batch products of packed weights for AVX-512 with VBMI and VNNI.
//
// vpdpbusd takes codebook + 64 as unsigned.
#include "simd/avx512_vnni/gemv.h"

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd/avx512/scales.h"
#include "simd/avx512_vnni/codes.h"
#include "simd/gemm_by_gemv.h"
#include "simd/trellis_shape.h"

namespace r1::simd {
namespace {

using quant::Format;

// How many panels are multiplied at once. Each stands at the head of its own equal part of the panels at hand, so that
// memory is read as so many long streams, which the processor's prefetchers follow without an instruction. Measured on
// two cores of the Zen 4 class, huge pages, one token, % of what plain reads (62 to 66 GB/s) reach in turns; the
// adjacent panels in a run of their own:
//                             t2   t2_5  t3   t3_5  t4   t5   nl6  w8   t4, K = 1536   t2, K = 1536
//   1 stream                  64   65    75   82    78   82   83   54   87             73
//   2 streams                 60   69    80   90    95   99   97   94   99             67
//   3 streams                 71   69    83   95    99   96   91   87   99             73
//   2 adjacent panels         47   –     –    –     72   –    –    –    42             30
//   2 streams, prefetcht0/t1  76   70    83   83    62   76   62   63   62             75
// Adjacent panels make streams that end after every panel, and begin again behind the other's. Prefetch instructions
// take up the buffers of misses that reads need: what is bound by arithmetic (t2 above 50 GB/s) gains by them, t2_5 and
// t3 hardly notice, all else loses.
// Here streams take turns by superchunk. By line, in order (w8 below), w8 reached 96 with 2, 95 to 98 with 3, 96 to 99
// with 4 streams of K = 7168; 94, 93, 89 with K = 1536.
template <Format F>
constexpr std::uint32_t n_streams = F == Format::w8 || !trellis_shape(F).s8 ? 3 : 2;

inline std::int64_t load_q8(const std::int8_t* q) {
  std::int64_t eight = 0;
  std::memcpy(&eight, q, sizeof eight);
  return eight;
}

inline __m512i load_q4(const std::int8_t* q) {
  std::int32_t four = 0;
  std::memcpy(&four, q, sizeof four);
  return _mm512_set1_epi32(four);
}

inline void store_rows(const PackedMatrix& w, std::uint32_t panel, const __m512* total, int n_tokens, float* y,
                       std::size_t ldy) {
  const std::uint32_t row = panel * quant::panel_rows, left = w.layout.rows - row;
  const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffffu : (1u << left) - 1);
  const __m512 row_scale = _mm512_loadu_ps(w.row_scale() + row);
  for (int t = 0; t < n_tokens; ++t) {
    _mm512_mask_storeu_ps(y + static_cast<std::size_t>(t) * ldy + row, mask, _mm512_mul_ps(total[t], row_scale));
  }
}

// What the products of a trellis format keep in registers.
template <Format F>
struct Product : Codes<F> {
  using Codes<F>::shape, Codes<F>::n_groups, Codes<F>::n_cuts, Codes<F>::half_bytes, Codes<F>::strings,
      Codes<F>::weights;
  static constexpr int superchunk_bytes = shape.superchunk_bytes();

  __m512 s4_table;

  explicit Product(const PackedMatrix& w) : s4_table(_mm512_loadu_ps(w.s4_table())) {}

  // total[t] += superchunk c of a panel · token t
  template <int NT>
  [[gnu::always_inline]] void add(const std::uint8_t* superchunk, std::uint32_t c, const Inputs<F, NT>& in,
                                  __m512* total) const {
    const std::uint8_t* codes = superchunk + shape.scale_bytes();
    __m512 acc[NT];
    for (int t = 0; t < NT; ++t) acc[t] = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int b = 0; b < 4; ++b) {
      const std::size_t block = std::size_t{c} * 4 + static_cast<std::size_t>(b);
      __m512i even[NT], odd[NT];
#pragma GCC unroll 8
      for (int t = 0; t < NT; ++t)  // both dwords of a row start at half of −64 Σq
        even[t] = odd[t] = _mm512_set1_epi32(-32 * in.block_sum[t][block]);
#pragma GCC unroll 4
      for (int g = 0; g < n_groups; ++g) {
        const __m512i z0 = strings(codes), z1 = strings(codes + half_bytes);
        codes += 2 * half_bytes;
#pragma GCC unroll 4
        for (int m = 0; m < n_cuts; ++m) {
          const __m512i w0 = weights(z0, m), w1 = weights(z1, m);
#pragma GCC unroll 8
          for (int t = 0; t < NT; ++t) {
            const __m512i q = _mm512_set1_epi64(load_q8(in.q[t] + block * quant::block_k + (g * n_cuts + m) * 8));
            even[t] = _mm512_dpbusd_epi32(even[t], w0, q);
            odd[t] = _mm512_dpbusd_epi32(odd[t], w1, q);
          }
        }
      }
      const __m512 scale = shape.s8 ? s8_scales_512(superchunk + 16 * b) : s4_scales_512(superchunk + 8 * b, s4_table);
#pragma GCC unroll 8
      for (int t = 0; t < NT; ++t) {
        __m512i dot = _mm512_add_epi32(even[t], _mm512_srli_epi64(even[t], 32));
        dot = _mm512_mask_add_epi32(dot, 0xaaaa, odd[t], _mm512_slli_epi64(odd[t], 32));
        acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, acc[t]);
      }
    }
#pragma GCC unroll 8
    for (int t = 0; t < NT; ++t) total[t] = _mm512_fmadd_ps(acc[t], _mm512_set1_ps(in.scale[t][c]), total[t]);
  }
};

template <>
struct Product<Format::w8> {
  static constexpr int superchunk_bytes = w8_superchunk_bytes;

  explicit Product(const PackedMatrix&) {}

  // total[p][t] += superchunk c of stream p · token t, line by line in turns. Without arithmetic to hide behind, what
  // counts is the order in which lines are asked for: the compiler would mix them up among its independent loads, which
  // costs a quarter of the speed at reads of 60 GB/s. So each line waits, in the program, for those before.
  template <std::uint32_t NP, int NT>
  [[gnu::always_inline]] void add(const std::uint8_t* superchunk, std::size_t distance_bytes, std::uint32_t c,
                                  const Inputs<Format::w8, NT>& in, __m512 (*total)[NT]) const {
    __m512 acc[NP][NT];
    for (auto& tokens : acc) {
      for (auto& t : tokens) t = _mm512_setzero_ps();
    }
#pragma GCC unroll 4
    for (int b = 0; b < 4; ++b) {
      const std::size_t block = std::size_t{c} * 4 + static_cast<std::size_t>(b);
      const std::uint8_t* codes = superchunk + 64 + 512 * b;
      // Two chains of dot products per token: one alone is bound by vpdpbusd's latency.
      __m512i sums[2][NP][NT];
#pragma GCC unroll 8
      for (int t = 0; t < NT; ++t) {
        const __m512i start = _mm512_set1_epi32(-128 * in.block_sum[t][block]);
#pragma GCC unroll 4
        for (std::uint32_t p = 0; p < NP; ++p) sums[0][p][t] = start, sums[1][p][t] = _mm512_setzero_si512();
      }
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        __m512i z[NP];
#pragma GCC unroll 4
        for (std::uint32_t p = 0; p < NP; ++p) {
          z[p] = _mm512_loadu_si512(codes + p * distance_bytes + 64 * i);
          asm volatile("" ::: "memory");
        }
#pragma GCC unroll 8
        for (int t = 0; t < NT; ++t) {
          const __m512i q = load_q4(in.q[t] + block * quant::block_k + 4 * i);
#pragma GCC unroll 4
          for (std::uint32_t p = 0; p < NP; ++p) sums[i % 2][p][t] = _mm512_dpbusd_epi32(sums[i % 2][p][t], z[p], q);
        }
      }
#pragma GCC unroll 4
      for (std::uint32_t p = 0; p < NP; ++p) {
        const __m512 scale = s8_scales_512(superchunk + p * distance_bytes + 16 * b);
#pragma GCC unroll 8
        for (int t = 0; t < NT; ++t) {
          const __m512i dot = _mm512_add_epi32(sums[0][p][t], sums[1][p][t]);
          acc[p][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, acc[p][t]);
        }
      }
    }
#pragma GCC unroll 8
    for (int t = 0; t < NT; ++t) {
      const __m512 scale = _mm512_set1_ps(in.scale[t][c]);
#pragma GCC unroll 4
      for (std::uint32_t p = 0; p < NP; ++p) total[p][t] = _mm512_fmadd_ps(acc[p][t], scale, total[p][t]);
    }
  }
};

// Panels panel, panel + distance … of NP parts.
template <Format F, int NT, std::uint32_t NP>
void together(const PackedMatrix& w, const Product<F>& product, const Inputs<F, NT>& in, std::uint32_t panel,
              std::uint32_t distance, float* y, std::size_t ldy) {
  const std::uint32_t n_superchunks = w.layout.k_padded / quant::superchunk_k;
  const std::size_t distance_bytes = distance * w.layout.panel_bytes;
  const auto* superchunk = reinterpret_cast<const std::uint8_t*>(w.panel(panel));
  __m512 total[NP][NT];
  for (auto& tokens : total) {
    for (auto& t : tokens) t = _mm512_setzero_ps();
  }
  for (std::uint32_t c = 0; c < n_superchunks; ++c, superchunk += Product<F>::superchunk_bytes) {
    if constexpr (F == Format::w8) {
      product.template add<NP>(superchunk, distance_bytes, c, in, total);
    } else {
#pragma GCC unroll 4
      for (std::uint32_t p = 0; p < NP; ++p) product.template add<NT>(superchunk + p * distance_bytes, c, in, total[p]);
    }
  }
  for (std::uint32_t p = 0; p < NP; ++p) store_rows(w, panel + p * distance, total[p], in.n_tokens, y, ldy);
}

template <Format F>
void gemv(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
          std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy) {
  for_batch(n_tokens, [&]<int NT>() {
    const Product<F> product(w);
    const Inputs<F, NT> in(x, token_begin, n_tokens);
    std::uint32_t panel = panel_begin;
    if constexpr (NT == 1) {
      const std::uint32_t part = (panel_end - panel_begin) / n_streams<F>;
      for (; panel < panel_begin + part; ++panel) together<F, NT, n_streams<F>>(w, product, in, panel, part, y, ldy);
      panel = panel_begin + n_streams<F> * part;
    }
    for (; panel < panel_end; ++panel) together<F, NT, 1>(w, product, in, panel, 0, y, ldy);
  });
}

// Tokens from which a copy of the weights is paid for by loads: a tile's are shared by six tokens and two panels, those
// of a walk by one panel's eight tokens.
constexpr std::uint32_t w8_tile_tokens = 32;

void w8_gemm(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
             std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy, std::byte* tile) {
  const GemmFn multiply = n_tokens < w8_tile_tokens ? gemm_by_gemv<gemv<Format::w8>> : w8_tile_gemm;
  multiply(w, x, token_begin, n_tokens, panel_begin, panel_end, y, ldy, tile);
}

}  // namespace

void use_avx512_vnni_gemv(GemvFn* table) {
  table[static_cast<int>(Format::t2)] = gemv<Format::t2>;
  table[static_cast<int>(Format::t2_5)] = gemv<Format::t2_5>;
  table[static_cast<int>(Format::t3)] = gemv<Format::t3>;
  table[static_cast<int>(Format::t3_5)] = gemv<Format::t3_5>;
  table[static_cast<int>(Format::t4)] = gemv<Format::t4>;
  table[static_cast<int>(Format::t4h)] = gemv<Format::t4h>;
  table[static_cast<int>(Format::t5)] = gemv<Format::t5>;
  table[static_cast<int>(Format::nl6)] = gemv<Format::nl6>;
  table[static_cast<int>(Format::w8)] = gemv<Format::w8>;
}

void use_avx512_vnni_w8_gemm(GemmFn* table) {
  table[static_cast<int>(Format::w8)] = w8_gemm;
}

}  // namespace r1::simd
