// GEMV and small-batch products of the trellis formats for AVX-512 with VBMI and VNNI.
//
// vpdpbusd takes codebook + 64 as unsigned.
#include "simd/avx512_vnni/gemv.h"

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd/avx512/scales.h"
#include "simd/avx512_vnni/codes.h"
#include "simd/avx512_vnni/rows.h"
#include "simd/trellis_shape.h"

namespace r1::simd {
namespace {

using quant::Format;

// How many streams take turns by superchunk, with prefetch instructions and without. Measured from memory, huge pages,
// one token, % of plain reads of the same turns. Two cores of the Zen 4 class, reads of 62 to 66 GB/s (T formats),
// where prefetches take up the buffers of misses that reads need:
//                             t2   t2_5  t3   t3_5  t4   t5   nl6  t4, K = 1536   t2, K = 1536
//   1 stream                  64   65    75   82    78   82   83   87             73
//   2 streams                 60   69    80   90    95   99   97   99             67
//   3 streams                 71   69    83   95    99   96   91   99             73
//   2 adjacent panels         47   –     –    –     72   –    –    42             30
//   2 streams, prefetches     76   70    83   83    62   76   62   62             75
// Adjacent panels make streams that end after every panel, and begin again behind the other's.
// Two cores of the Zen 5 class, reads of 80 GB/s:
//   2 streams                 87   88    88   91    94   92   93
//   3 streams                 89   89    87   88    90   87   88
//   2 streams, 1 KiB ahead    81   89    89   92    91   94   92
//   2 streams, 3 KiB ahead    91   94    94   96    95   97   96
//   2 streams, 4 KiB ahead    94   95    93   96    94   96   95
// Of 50 GB/s 1 stream reaches 84 to 94, 2 streams 94 to 97, and with 3 KiB 96 to 98, with 8 KiB 92 to 95. prefetcht1
// loses 5 to 20; prefetchnta is as good as prefetcht0.
// An Emerald Rapids, 2 threads, reads of 23 to 34 GB/s; 16 threads, 94 to 113 GB/s:
//   2 streams                61–67 65–69 71–72 74–76 73–80 74–81 74–84;   87 88 88 89 91 90 90
//   3 streams                73–74 76–79 81–85 82–84 83–87 87–87 84–85;   88 88 88 88 89 86 88
//   2 streams, 2 KiB ahead   79–90 79–94 89    90    91    91    92;      93 93 93 93 93 92 94
//   2 streams, 3 KiB ahead   88–91 88–92 89    90–92 92–94 91–94 91–93;   92 92 93 94 95 94 94
//   2 streams, 4 KiB ahead   90–91 89–93 89–91 90–94 91–94 90–94 91–92;   93 92 93 93 93 92 94
template <Format F, bool Prefetch, int NT>
constexpr std::uint32_t n_streams = NT > 4                ? 1  // two would spill their totals, and half the speed
                                    : Prefetch            ? 2
                                    : NT > 1              ? 1  // more were not measured there
                                    : trellis_shape(F).s8 ? 2
                                                          : 3;

// Part of the prefetches for a superchunk: those that fall to block b of the one at hand.
template <int SuperchunkBytes>
[[gnu::always_inline]] inline void fetch_ahead(const std::uint8_t* superchunk, int b) {
  constexpr int n_lines = (SuperchunkBytes + 63) / 64;
  for (int line = n_lines * b / 4; line < n_lines * (b + 1) / 4; ++line)
    _mm_prefetch(reinterpret_cast<const char*>(superchunk) + gemv_ahead_bytes + 64 * line, _MM_HINT_T0);
}

inline std::int64_t load_q8(const std::int8_t* q) {
  std::int64_t eight = 0;
  std::memcpy(&eight, q, sizeof eight);
  return eight;
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
  template <bool Prefetch, int NT>
  [[gnu::always_inline]] void add(const std::uint8_t* superchunk, std::uint32_t c, const Inputs<F, NT>& in,
                                  __m512* total) const {
    const std::uint8_t* codes = superchunk + shape.scale_bytes();
    __m512 acc[NT];
    for (int t = 0; t < NT; ++t) acc[t] = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int b = 0; b < 4; ++b) {
      const std::size_t block = std::size_t{c} * 4 + static_cast<std::size_t>(b);
      if constexpr (Prefetch) {
        fetch_ahead<superchunk_bytes>(superchunk, b);
        asm volatile("" : "+r"(codes));  // or GCC mixes up the loads of all blocks: t4 97 → 88 % on Zen 5
      }
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

// Panels panel, panel + distance … of NP parts.
template <Format F, bool Prefetch, int NT, std::uint32_t NP>
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
#pragma GCC unroll 4
    for (std::uint32_t p = 0; p < NP; ++p)
      product.template add<Prefetch, NT>(superchunk + p * distance_bytes, c, in, total[p]);
  }
  for (std::uint32_t p = 0; p < NP; ++p) store_rows(w, panel + p * distance, total[p], in.n_tokens, y, ldy);
}

template <Format F, bool Prefetch>
void gemv(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
          std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy) {
  for_batch(n_tokens, [&]<int NT>() {
    constexpr std::uint32_t n = n_streams<F, Prefetch, NT>;
    const Product<F> product(w);
    const Inputs<F, NT> in(x, token_begin, n_tokens);
    in_streams<n>(panel_begin, panel_end, [&]<std::uint32_t NP>(std::uint32_t panel, std::uint32_t distance) {
      together<F, Prefetch, NT, NP>(w, product, in, panel, distance, y, ldy);
    });
  });
}

template <bool Prefetch>
void use_gemv(GemvFn* table) {
  table[static_cast<int>(Format::t2)] = gemv<Format::t2, Prefetch>;
  table[static_cast<int>(Format::t2_5)] = gemv<Format::t2_5, Prefetch>;
  table[static_cast<int>(Format::t3)] = gemv<Format::t3, Prefetch>;
  table[static_cast<int>(Format::t3_5)] = gemv<Format::t3_5, Prefetch>;
  table[static_cast<int>(Format::t4)] = gemv<Format::t4, Prefetch>;
  table[static_cast<int>(Format::t4h)] = gemv<Format::t4h, Prefetch>;
  table[static_cast<int>(Format::t5)] = gemv<Format::t5, Prefetch>;
  table[static_cast<int>(Format::nl6)] = gemv<Format::nl6, Prefetch>;
}

}  // namespace

void use_avx512_vnni_gemv(GemvFn* table, bool prefetch) {
  prefetch ? use_gemv<true>(table) : use_gemv<false>(table);
}

}  // namespace r1::simd
