// Internal to simd/: the packed kernels over 256-bit registers, for any way `Dot` to multiply unsigned by signed bytes.
// A block is unpacked once for all tokens. Internal linkage, as in unpack.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd/avx2/unpack.h"
#include "simd/kernels.h"

namespace r1::simd {
namespace {

inline __m256 s8_scales(const std::uint8_t* p) {
  const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32(bytes, 19), _mm256_set1_epi32(119 << 23)));
}

// Scales of rows 8·half … 8·half + 7: nibbles 4·half … of two words, looked up in a table of 16 floats held in two
// registers.
struct S4Table {
  __m256 low, high;

  explicit S4Table(const float* table) : low(_mm256_loadu_ps(table)), high(_mm256_loadu_ps(table + 8)) {}

  __m256 scales(const std::uint8_t* p, int half) const {
    std::int64_t words = 0;
    std::memcpy(&words, p, sizeof words);
    const __m256i shift =
        half == 0 ? _mm256_set_epi32(12, 12, 8, 8, 4, 4, 0, 0) : _mm256_set_epi32(28, 28, 24, 24, 20, 20, 16, 16);
    const __m256i index =
        _mm256_srlv_epi32(_mm256_set1_epi64x(words), shift);  // vpermps reads the low three bits alone
    const __m256 bit3 = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index), bit3);
  }
};

inline __m256i broadcast4(const std::int8_t* q) {
  std::int32_t four = 0;
  std::memcpy(&four, q, sizeof four);
  return _mm256_set1_epi32(four);
}

// The prefetch distance of the sketch that FORMAT.md measured; the unpacking leaves time for one level only.
constexpr int prefetch_bytes = 2048;

template <quant::Format F, class Dot>
void packed_panel(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
                  std::uint32_t panel, float* y, std::size_t ldy) {
  using quant::Format;
  constexpr bool s8 = F == Format::t4h || F == Format::t5 || F == Format::nl6 || F == Format::w8;
  constexpr bool plain = F == Format::w8;
  constexpr std::size_t scale_bytes = s8 ? 64 : 32;
  const quant::FormatInfo& format = quant::info(F);
  const std::size_t superchunk_bytes = format.superchunk_bytes, block_bytes = format.block_bytes;
  const std::int8_t unused[64] = {};
  const Lookup64 lookup(plain ? unused : format.codebook);
  const S4Table table(w.s4_table());
  const std::int8_t* q = ordered<F>(x.q, x.q_step2, x.q_step4) + std::size_t{token_begin} * x.k_padded;
  const std::uint32_t n_superchunks = x.k_padded / quant::superchunk_k;
  const auto* superchunk = reinterpret_cast<const std::uint8_t*>(w.panel(panel));

  __m256 total[max_gemv_tokens][2];
  for (auto& t : total) t[0] = t[1] = _mm256_setzero_ps();
  for (std::uint32_t c = 0; c < n_superchunks; ++c, superchunk += superchunk_bytes) {
    // Unpacking reads a few bytes past a block: the blob's last superchunk is copied to where that is harmless.
    alignas(64) std::uint8_t last[1664];
    const std::uint8_t* source = superchunk;
    if (!plain && c + 1 == n_superchunks && panel + 1 == w.layout.n_panels) {
      std::memcpy(last, superchunk, superchunk_bytes);
      source = last;
    }
    for (std::size_t line = 0; line < superchunk_bytes; line += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(superchunk + line + prefetch_bytes), _MM_HINT_T0);
    }
    __m256 acc[max_gemv_tokens][2];
    for (std::uint32_t t = 0; t < n_tokens; ++t) acc[t][0] = acc[t][1] = _mm256_setzero_ps();
    for (std::uint32_t b = 0; b < 4; ++b) {
      alignas(64) std::uint8_t unpacked[512];
      const std::uint8_t* codes = source + scale_bytes + b * block_bytes;
      const std::uint8_t* bytes = plain ? codes : unpacked;
      if constexpr (!plain) unpack_block<F>(lookup, codes, unpacked);
      __m256 scale[2];
      for (int half = 0; half < 2; ++half)
        scale[half] = s8 ? s8_scales(source + 16 * b + 8 * half) : table.scales(source + 8 * b, half);
      for (std::uint32_t t = 0; t < n_tokens; ++t) {
        const std::int8_t* qb = q + std::size_t{t} * x.k_padded + c * quant::superchunk_k + b * quant::block_k;
        const std::int32_t sum = x.block_sum[(std::size_t{token_begin + t} * n_superchunks + c) * 4 + b];
        __m256i dots[2];
        dots[0] = dots[1] = plain ? Dot::start_w8(sum) : _mm256_set1_epi32(-64 * sum);
#pragma GCC unroll 8
        for (int quad = 0; quad < 8; ++quad) {
          const __m256i activation = broadcast4(qb + 4 * quad);
#pragma GCC unroll 2
          for (int half = 0; half < 2; ++half) {
            const __m256i weights = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + 64 * quad + 32 * half));
            dots[half] =
                plain ? Dot::add_w8(dots[half], weights, activation) : Dot::add(dots[half], weights, activation);
          }
        }
        for (int half = 0; half < 2; ++half)
          acc[t][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[half]), scale[half], acc[t][half]);
      }
    }
    for (std::uint32_t t = 0; t < n_tokens; ++t) {
      const __m256 scale = _mm256_set1_ps(x.scale[std::size_t{token_begin + t} * n_superchunks + c]);
      for (int half = 0; half < 2; ++half) total[t][half] = _mm256_fmadd_ps(acc[t][half], scale, total[t][half]);
    }
  }
  const std::uint32_t row = panel * quant::panel_rows, left = w.layout.rows - row;
  for (std::uint32_t t = 0; t < n_tokens; ++t) {
    alignas(32) float rows[quant::panel_rows];
    for (int half = 0; half < 2; ++half) {
      _mm256_store_ps(rows + 8 * half, _mm256_mul_ps(total[t][half], _mm256_loadu_ps(w.row_scale() + row + 8 * half)));
    }
    std::memcpy(y + t * ldy + row, rows, (left < quant::panel_rows ? left : quant::panel_rows) * sizeof(float));
  }
}

template <quant::Format F, class Dot>
void packed_gemv(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
                 std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy) {
  for (std::uint32_t panel = panel_begin; panel < panel_end; ++panel)
    packed_panel<F, Dot>(w, x, token_begin, n_tokens, panel, y, ldy);
}

template <class Dot>
void use_packed_gemv(GemvFn* table) {
  using quant::Format;
  table[static_cast<int>(Format::t2)] = packed_gemv<Format::t2, Dot>;
  table[static_cast<int>(Format::t2_5)] = packed_gemv<Format::t2_5, Dot>;
  table[static_cast<int>(Format::t3)] = packed_gemv<Format::t3, Dot>;
  table[static_cast<int>(Format::t3_5)] = packed_gemv<Format::t3_5, Dot>;
  table[static_cast<int>(Format::t4)] = packed_gemv<Format::t4, Dot>;
  table[static_cast<int>(Format::t4h)] = packed_gemv<Format::t4h, Dot>;
  table[static_cast<int>(Format::t5)] = packed_gemv<Format::t5, Dot>;
  table[static_cast<int>(Format::nl6)] = packed_gemv<Format::nl6, Dot>;
  table[static_cast<int>(Format::w8)] = packed_gemv<Format::w8, Dot>;
}

}  // namespace
}  // namespace r1::simd
