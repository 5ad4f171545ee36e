// GEMV and small-batch products of w8 for AVX-512 with VNNI: its bytes are what vpdpbusd takes, so that nothing but the
// order in which memory is asked for decides.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd/avx512/scales.h"
#include "simd/avx512_vnni/gemv.h"
#include "simd/avx512_vnni/rows.h"
#include "simd/trellis_shape.h"

namespace r1::simd {
namespace {

using quant::Format;

inline __m512i load_q4(const std::int8_t* q) {
  std::int32_t four = 0;
  std::memcpy(&four, q, sizeof four);
  return _mm512_set1_epi32(four);
}

// Panels panel, panel + distance … of NP parts, line by line in turns: so many long streams. Each line waits, in the
// program, for those before, since the compiler would mix them up among its independent loads. Without prefetches the
// loop over lines is left a loop, since Zen's prefetchers know a stream by the instruction that reads it.
// Measured from memory, one token, % of plain reads. Two cores of the Zen 5 class, reads of 80 GB/s (of 50 in
// brackets):
//   unrolled: 2, 3, 4 streams 66 (86), 78 (87), 85 (89); 2 streams, prefetcht0 3 KiB ahead 85 (91)
//   a loop of two lines: 2, 3, 4, 5 streams 92 – 94 (97 – 98), 84 (95), – (91), – (94); 2 streams, prefetches 59 (91)
// Two cores of the Zen 4 class, unrolled: 2, 3, 4 streams 96, 92, 96 – 99 of 58 – 65 GB/s; 99 – 102 of 36.
// An Emerald Rapids, 2 threads (16 in brackets), 2 streams: unrolled 89 – 90 (93 – 95), with prefetches 97 – 101 (98 –
// 99), a loop 86 – 88 (93).
template <bool Prefetch, int NT, std::uint32_t NP>
void together(const PackedMatrix& w, const Inputs<Format::w8, NT>& in, std::uint32_t panel, std::uint32_t distance,
              float* y, std::size_t ldy) {
  const std::uint32_t n_superchunks = w.layout.k_padded / quant::superchunk_k;
  const std::size_t distance_bytes = distance * w.layout.panel_bytes;
  const auto* superchunk = reinterpret_cast<const std::uint8_t*>(w.panel(panel));
  __m512 total[NP][NT];
  for (auto& tokens : total) {
    for (auto& t : tokens) t = _mm512_setzero_ps();
  }
  for (std::uint32_t c = 0; c < n_superchunks; ++c, superchunk += w8_superchunk_bytes) {
    __m512 acc[NP][NT];
    for (auto& tokens : acc) {
      for (auto& t : tokens) t = _mm512_setzero_ps();
    }
#pragma GCC unroll 1
    for (std::size_t b = 0; b < 4; ++b) {
      const std::size_t block = std::size_t{c} * 4 + b;
      const std::uint8_t* codes = superchunk + 64 + 512 * b;
      __m512i sums[2][NP][NT];  // one chain of dot products alone would be bound by vpdpbusd's latency
#pragma GCC unroll 8
      for (int t = 0; t < NT; ++t) {
        const __m512i start = _mm512_set1_epi32(-128 * in.block_sum[t][block]);
#pragma GCC unroll 4
        for (std::uint32_t p = 0; p < NP; ++p) sums[0][p][t] = start, sums[1][p][t] = _mm512_setzero_si512();
      }
      // Eight tokens are too much to do per line for the processor to see far ahead: 32 → 74 % of 50 GB/s on Zen 5.
      if constexpr (Prefetch || NT > 4) {
#pragma GCC unroll 4
        for (std::uint32_t p = 0; p < NP; ++p) {
#pragma GCC unroll 8
          for (int i = 0; i < 8; ++i) {
            const std::uint8_t* line = codes + p * distance_bytes + 64 * i;
            _mm_prefetch(reinterpret_cast<const char*>(line) + gemv_ahead_bytes, _MM_HINT_T0);
          }
        }
      }
      constexpr std::size_t n_unrolled = Prefetch ? 8 : 2;
#pragma GCC unroll 1
      for (std::size_t i = 0; i < 8; i += n_unrolled) {
#pragma GCC unroll 8
        for (std::size_t line = 0; line < n_unrolled; ++line) {
          __m512i z[NP];
#pragma GCC unroll 4
          for (std::uint32_t p = 0; p < NP; ++p) {
            z[p] = _mm512_loadu_si512(codes + p * distance_bytes + 64 * (i + line));
            asm volatile("" ::: "memory");
          }
#pragma GCC unroll 8
          for (int t = 0; t < NT; ++t) {
            const __m512i q = load_q4(in.q[t] + block * quant::block_k + 4 * (i + line));
#pragma GCC unroll 4
            for (std::uint32_t p = 0; p < NP; ++p) {
              __m512i& sum = sums[line % 2][p][t];
              sum = _mm512_dpbusd_epi32(sum, z[p], q);
            }
          }
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
  for (std::uint32_t p = 0; p < NP; ++p) store_rows(w, panel + p * distance, total[p], in.n_tokens, y, ldy);
}

template <bool Prefetch>
void gemv(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
          std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy) {
  for_batch(n_tokens, [&]<int NT>() {
    constexpr std::uint32_t n_streams = NT > 4 ? 1 : 2;  // the sums of eight tokens and two streams fit no registers
    const Inputs<Format::w8, NT> in(x, token_begin, n_tokens);
    in_streams<n_streams>(panel_begin, panel_end, [&]<std::uint32_t NP>(std::uint32_t panel, std::uint32_t distance) {
      together<Prefetch, NT, NP>(w, in, panel, distance, y, ldy);
    });
  });
}

}  // namespace

void use_avx512_vnni_w8_gemv(GemvFn* table, bool prefetch) {
  table[static_cast<int>(Format::w8)] = prefetch ? gemv<true> : gemv<false>;
}

}  // namespace r1::simd
