// GEMV and small-batch products of packed weights for AVX-512 with VBMI and VNNI.
//
// One zmm of codes is eight rows (all even or all odd rows of the panel) of one 8-byte string, or of a 5- to 7-byte
// string spread to 8. Windows of a string are cut by a rotate (t2, t4) or by vpmultishiftqb; vpermb reads only the low
// six bits of an index, so it is the codebook lookup as it stands; vpdpbusd takes codebook + 64 as unsigned.
#include "simd/avx512_vnni/gemv.h"

#include <immintrin.h>

#include <array>
#include <cstdint>
#include <cstring>

namespace r1::simd {
namespace {

using quant::Format;

// How the windows of a group are cut, by format.
enum class Cut { rotate, multishift };

struct Shape {
  Cut cut;
  int group_weights, group_bytes;
  int step_even, step_odd;
  bool s8;
};

constexpr Shape shape_of(Format format) {
  switch (format) {
    case Format::t2:
      return {Cut::rotate, 32, 8, 2, 2, false};
    case Format::t2_5:
      return {Cut::multishift, 16, 5, 2, 3, false};
    case Format::t3:
      return {Cut::multishift, 16, 6, 3, 3, false};
    case Format::t3_5:
      return {Cut::multishift, 16, 7, 3, 4, false};
    case Format::t4:
      return {Cut::rotate, 16, 8, 4, 4, false};
    case Format::t4h:
      return {Cut::rotate, 16, 8, 4, 4, true};
    case Format::t5:
      return {Cut::multishift, 8, 5, 5, 5, true};
    default:
      return {Cut::multishift, 8, 6, 6, 6, true};  // nl6
  }
}

struct alignas(64) Bytes64 {
  std::uint8_t at[64];
};

// Bit offsets of windows 8m … 8m + 7 of a group, for each of the eight strings of a zmm.
constexpr Bytes64 multishift_control(Shape shape, int m) {
  Bytes64 control{};
  for (int i = 0; i < 8; ++i) {
    int offset = 0;
    for (int t = 0; t < 8 * m + i; ++t) offset += t & 1 ? shape.step_odd : shape.step_even;
    for (int row = 0; row < 8; ++row) control.at[8 * row + i] = static_cast<std::uint8_t>(offset);
  }
  return control;
}

// Spreads eight strings of group_bytes to qwords; the first bytes follow the last, since the strings are circular.
constexpr Bytes64 spread_control(Shape shape) {
  Bytes64 control{};
  for (int row = 0; row < 8; ++row) {
    for (int i = 0; i < 8; ++i) {
      control.at[8 * row + i] = static_cast<std::uint8_t>(row * shape.group_bytes + i % shape.group_bytes);
    }
  }
  return control;
}

inline __m512i load(const Bytes64& bytes) {
  return _mm512_load_si512(bytes.at);
}

// Distances measured for two cores of the Emerald Rapids class (FORMAT.md, "Kernels"): without any, t2 reads 49–55 % of
// the bandwidth of a read loop, with one level 66–80 %, with both 87–89 %.
constexpr int prefetch_l1_bytes = 1024;
constexpr int prefetch_l2_bytes = 8192;

inline void prefetch(const std::uint8_t* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p + prefetch_l1_bytes), _MM_HINT_T0);
  _mm_prefetch(reinterpret_cast<const char*>(p + prefetch_l2_bytes), _MM_HINT_T1);
}

inline __m512 s8_scales(const std::uint8_t* p) {
  const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32(bytes, 19), _mm512_set1_epi32(119 << 23)));
}

// Lane 2j takes nibble j of the first word, lane 2j + 1 that of the second; vpermps reads the low four bits alone.
inline __m512 s4_scales(const std::uint8_t* p, __m512 table) {
  std::int64_t words = 0;
  std::memcpy(&words, p, sizeof words);
  const __m512i shift = _mm512_set_epi32(28, 28, 24, 24, 20, 20, 16, 16, 12, 12, 8, 8, 4, 4, 0, 0);
  return _mm512_permutexvar_ps(_mm512_srlv_epi32(_mm512_set1_epi64(words), shift), table);
}

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

// The activations of NT tokens as this format wants them.
template <int NT>
struct Inputs {
  const std::int8_t* q[NT];
  const float* scale[NT];
  const std::int32_t* block_sum[NT];
};

template <int NT>
Inputs<NT> inputs_for(Format format, const Activations& x, std::uint32_t token_begin) {
  const std::int8_t* q = format == Format::t2                            ? x.q_step2
                         : format == Format::t4 || format == Format::t4h ? x.q_step4
                                                                         : x.q;
  Inputs<NT> inputs;
  for (int t = 0; t < NT; ++t) {
    const std::size_t token = token_begin + static_cast<std::size_t>(t);
    inputs.q[t] = q + token * x.k_padded;
    inputs.scale[t] = x.scale + token * (x.k_padded / quant::superchunk_k);
    inputs.block_sum[t] = x.block_sum + token * (x.k_padded / quant::block_k);
  }
  return inputs;
}

template <int NT>
inline void store_rows(const PackedMatrix& w, std::uint32_t panel, const __m512* total, float* y, std::size_t ldy) {
  const std::uint32_t row = panel * quant::panel_rows, left = w.layout.rows - row;
  const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffffu : (1u << left) - 1);
  const __m512 row_scale = _mm512_loadu_ps(w.row_scale() + row);
  for (int t = 0; t < NT; ++t) _mm512_mask_storeu_ps(y + t * ldy + row, mask, _mm512_mul_ps(total[t], row_scale));
}

template <Format F, int NT>
void trellis_panels(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t panel_begin,
                    std::uint32_t panel_end, float* y, std::size_t ldy) {
  constexpr Shape shape = shape_of(F);
  constexpr int n_groups = 32 / shape.group_weights;  // of a block
  constexpr int n_cuts = shape.group_weights / 8;     // windows of a group, eight at a time
  constexpr int half_bytes = 8 * shape.group_bytes;   // eight rows of a group
  constexpr int scale_bytes = shape.s8 ? 64 : 32;
  constexpr int superchunk_bytes = scale_bytes + 4 * n_groups * 2 * half_bytes;
  constexpr auto load_mask = static_cast<__mmask64>(half_bytes == 64 ? ~0ull : (1ull << (half_bytes % 64)) - 1);
  static constexpr Bytes64 spread_bytes = spread_control(shape);
  static constexpr std::array<Bytes64, 4> control_bytes = {multishift_control(shape, 0), multishift_control(shape, 1),
                                                           multishift_control(shape, 2), multishift_control(shape, 3)};

  const __m512i codebook = _mm512_add_epi8(_mm512_loadu_si512(quant::info(F).codebook), _mm512_set1_epi8(64));
  const __m512 table = _mm512_loadu_ps(w.s4_table());
  const __m512i spread = load(spread_bytes);
  __m512i control[n_cuts];
  for (int m = 0; m < n_cuts; ++m) control[m] = load(control_bytes[static_cast<std::size_t>(m)]);
  const Inputs<NT> in = inputs_for<NT>(F, x, token_begin);
  const std::uint32_t n_superchunks = w.layout.k_padded / quant::superchunk_k;

  for (std::uint32_t panel = panel_begin; panel < panel_end; ++panel) {
    const auto* superchunk = reinterpret_cast<const std::uint8_t*>(w.panel(panel));
    __m512 total[NT];
    for (int t = 0; t < NT; ++t) total[t] = _mm512_setzero_ps();
    for (std::uint32_t c = 0; c < n_superchunks; ++c, superchunk += superchunk_bytes) {
      const std::uint8_t* codes = superchunk + scale_bytes;
      prefetch(superchunk);
      __m512 acc[NT];
      for (int t = 0; t < NT; ++t) acc[t] = _mm512_setzero_ps();
#pragma GCC unroll 4
      for (int b = 0; b < 4; ++b) {
        const std::size_t block = std::size_t{c} * 4 + static_cast<std::size_t>(b);
        __m512i even[NT], odd[NT];
#pragma GCC unroll 8
        for (int t = 0; t < NT; ++t) {  // both dwords of a row start at half of −64 Σq
          even[t] = _mm512_set1_epi32(-32 * in.block_sum[t][block]);
          odd[t] = even[t];
        }
#pragma GCC unroll 4
        for (int g = 0; g < n_groups; ++g) {
          __m512i z0 = _mm512_maskz_loadu_epi8(load_mask, codes);
          __m512i z1 = _mm512_maskz_loadu_epi8(load_mask, codes + half_bytes);
          prefetch(codes);
          if constexpr (half_bytes > 32) prefetch(codes + 64);
          codes += 2 * half_bytes;
          if constexpr (half_bytes < 64) {
            z0 = _mm512_permutexvar_epi8(spread, z0);
            z1 = _mm512_permutexvar_epi8(spread, z1);
          }
#pragma GCC unroll 4
          for (int m = 0; m < n_cuts; ++m) {
            __m512i i0, i1;
            if constexpr (shape.cut == Cut::rotate) {
              const __m512i bits = _mm512_set1_epi64(m * shape.step_even);
              i0 = m == 0 ? z0 : _mm512_rorv_epi64(z0, bits);
              i1 = m == 0 ? z1 : _mm512_rorv_epi64(z1, bits);
            } else {
              i0 = _mm512_multishift_epi64_epi8(control[m], z0);
              i1 = _mm512_multishift_epi64_epi8(control[m], z1);
            }
            const __m512i w0 = _mm512_permutexvar_epi8(i0, codebook);
            const __m512i w1 = _mm512_permutexvar_epi8(i1, codebook);
#pragma GCC unroll 8
            for (int t = 0; t < NT; ++t) {
              const __m512i q = _mm512_set1_epi64(load_q8(in.q[t] + block * 32 + (g * n_cuts + m) * 8));
              even[t] = _mm512_dpbusd_epi32(even[t], w0, q);
              odd[t] = _mm512_dpbusd_epi32(odd[t], w1, q);
            }
          }
        }
        const __m512 scale = shape.s8 ? s8_scales(superchunk + 16 * b) : s4_scales(superchunk + 8 * b, table);
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
    store_rows<NT>(w, panel, total, y, ldy);
  }
}

template <int NT>
void w8_panels(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t panel_begin,
               std::uint32_t panel_end, float* y, std::size_t ldy) {
  constexpr int superchunk_bytes = 2112;
  const Inputs<NT> in = inputs_for<NT>(Format::w8, x, token_begin);
  const std::uint32_t n_superchunks = w.layout.k_padded / quant::superchunk_k;
  for (std::uint32_t panel = panel_begin; panel < panel_end; ++panel) {
    const auto* superchunk = reinterpret_cast<const std::uint8_t*>(w.panel(panel));
    __m512 total[NT];
    for (int t = 0; t < NT; ++t) total[t] = _mm512_setzero_ps();
    for (std::uint32_t c = 0; c < n_superchunks; ++c, superchunk += superchunk_bytes) {
      __m512 acc[NT];
      for (int t = 0; t < NT; ++t) acc[t] = _mm512_setzero_ps();
      prefetch(superchunk);
#pragma GCC unroll 4
      for (int b = 0; b < 4; ++b) {
        const std::size_t block = std::size_t{c} * 4 + static_cast<std::size_t>(b);
        const std::uint8_t* codes = superchunk + 64 + 512 * b;
        // Two chains of dot products per token: one alone is bound by vpdpbusd's latency.
        __m512i first[NT], second[NT];
#pragma GCC unroll 8
        for (int t = 0; t < NT; ++t) {
          first[t] = _mm512_set1_epi32(-128 * in.block_sum[t][block]);
          second[t] = _mm512_setzero_si512();
        }
#pragma GCC unroll 4
        for (int i = 0; i < 8; i += 2) {
          const __m512i z0 = _mm512_loadu_si512(codes + 64 * i), z1 = _mm512_loadu_si512(codes + 64 * i + 64);
          prefetch(codes + 64 * i);
          prefetch(codes + 64 * i + 64);
#pragma GCC unroll 8
          for (int t = 0; t < NT; ++t) {
            first[t] = _mm512_dpbusd_epi32(first[t], z0, load_q4(in.q[t] + block * 32 + 4 * i));
            second[t] = _mm512_dpbusd_epi32(second[t], z1, load_q4(in.q[t] + block * 32 + 4 * i + 4));
          }
        }
        const __m512 scale = s8_scales(superchunk + 16 * b);
#pragma GCC unroll 8
        for (int t = 0; t < NT; ++t) {
          acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(first[t], second[t])), scale, acc[t]);
        }
      }
#pragma GCC unroll 8
      for (int t = 0; t < NT; ++t) total[t] = _mm512_fmadd_ps(acc[t], _mm512_set1_ps(in.scale[t][c]), total[t]);
    }
    store_rows<NT>(w, panel, total, y, ldy);
  }
}

template <Format F, int NT>
void panels(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t panel_begin,
            std::uint32_t panel_end, float* y, std::size_t ldy) {
  if constexpr (F == Format::w8) {
    w8_panels<NT>(w, x, token_begin, panel_begin, panel_end, y, ldy);
  } else {
    trellis_panels<F, NT>(w, x, token_begin, panel_begin, panel_end, y, ldy);
  }
}

// A batch of 1 … 8 tokens as steps of 8, 4, 2 and 1: each step unpacks the weights once.
template <Format F>
void gemv(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
          std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy) {
  while (n_tokens > 0) {
    std::uint32_t step = 1;
    if (n_tokens >= 8) {
      panels<F, 8>(w, x, token_begin, panel_begin, panel_end, y, ldy);
      step = 8;
    } else if (n_tokens >= 4) {
      panels<F, 4>(w, x, token_begin, panel_begin, panel_end, y, ldy);
      step = 4;
    } else if (n_tokens >= 2) {
      panels<F, 2>(w, x, token_begin, panel_begin, panel_end, y, ldy);
      step = 2;
    } else {
      panels<F, 1>(w, x, token_begin, panel_begin, panel_end, y, ldy);
    }
    token_begin += step;
    n_tokens -= step;
    y += step * ldy;
  }
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

}  // namespace r1::simd
