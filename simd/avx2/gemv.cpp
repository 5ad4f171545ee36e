// Matrix kernels for the baseline: AVX2 and FMA.
#include "simd/avx2/gemv.h"

#include "simd/avx2/vector.h"
#include "simd/gemm_by_gemv.h"
#include "simd/shuffle_gemm.h"
#include "simd/shuffle_gemv.h"

namespace r1::simd {
namespace {

// Unsigned × signed bytes by vpmaddubsw. Codebook bytes are at most 127, so a pair's sum stays below 2^15.
struct MaddDot {
  static constexpr int tile_tokens = 4;  // eight sums, two weights, and what a product passes through: 16 registers
  // Registers between a lookup and its products. Zen 3, 10^9 weights/s with 0, 1, 2, 3: t2 18.9, 19.4, 20.4, 20.5;
  // t3 13.9, 13.8, 14.7, 14.3; t5 13.2, 12.8, 13.7, 13.5.
  static constexpr int products_behind = 2;
  // The addition is written out: GCC 12 puts off additions of integers until their terms no longer fit the registers.
  static __m256i dot(__m256i acc, __m256i weights, __m256i activation) {
    asm("vpaddd %1, %0, %0" : "+x"(acc) : "x"(sums(weights, activation)));
    return acc;
  }
  // w8's bytes reach 255: they are made signed, and the sign goes to the activation, |weight| ≤ 128.
  static constexpr int w8_offset = 0;
  struct W8Weights {
    __m256i value, magnitude;
  };
  static __m256i w8_bytes(__m256i stored) {
    return _mm256_xor_si256(stored, _mm256_set1_epi8(static_cast<char>(0x80)));
  }
  static __m256i magnitude(__m256i bytes) { return _mm256_abs_epi8(bytes); }
  static __m256i where_negative(__m256i bytes) { return _mm256_cmpgt_epi8(_mm256_setzero_si256(), bytes); }
  static __m256i both(__m256i a, __m256i b) { return _mm256_and_si256(a, b); }
  static __m256i exclusive_or(__m256i a, __m256i b) { return _mm256_xor_si256(a, b); }
  static W8Weights w8_weights(__m256i bytes) { return {bytes, _mm256_abs_epi8(bytes)}; }
  // One token alone waits for memory, which GCC's order of loads asks sooner: 98 instead of 94 % of plain reads, Zen 4.
  template <int NT>
  static __m256i dot_w8(__m256i acc, const W8Weights& weights, __m256i activation) {
    const __m256i with_sign = _mm256_sign_epi8(activation, weights.value);
    if constexpr (NT == 1) return _mm256_add_epi32(acc, sums(weights.magnitude, with_sign));
    return dot(acc, weights.magnitude, with_sign);
  }

 private:
  static __m256i sums(__m256i weights, __m256i activation) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(weights, activation), _mm256_set1_epi16(1));
  }
};

struct F32Weights {
  static constexpr std::size_t bytes = 4;
  static __m256 load8(const std::byte* p) { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
  static float load(const std::byte* p) {
    float x = 0;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
};

struct Bf16Weights {
  static constexpr std::size_t bytes = 2;
  static __m256 load8(const std::byte* p) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
  }
  static float load(const std::byte* p) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, p, sizeof bits);
    const std::uint32_t wide = std::uint32_t{bits} << 16;
    float x = 0;
    std::memcpy(&x, &wide, sizeof x);
    return x;
  }
};

// NR rows × NT tokens of a row-major matrix, the rows `distance` apart; every product has one accumulator of eight
// lanes, lane = k mod 8.
template <class Weights, int NR, int NT>
void plain_tile(const std::byte* rows, std::size_t row_bytes, std::size_t distance, const float* x, std::size_t ldx,
                std::uint32_t k_end, float* y, std::size_t ldy) {
  const std::size_t distance_bytes = distance * row_bytes;
  __m256 acc[NR][NT];
  for (auto& row : acc) {
    for (auto& a : row) a = _mm256_setzero_ps();
  }
  std::uint32_t k = 0;
  for (; k + 8 <= k_end; k += 8) {
    __m256 w[NR];
#pragma GCC unroll 4
    for (int r = 0; r < NR; ++r)
      w[r] = Weights::load8(rows + static_cast<std::size_t>(r) * distance_bytes + k * Weights::bytes);
#pragma GCC unroll 4
    for (int t = 0; t < NT; ++t) {
      const __m256 in = _mm256_loadu_ps(x + static_cast<std::size_t>(t) * ldx + k);
#pragma GCC unroll 4
      for (int r = 0; r < NR; ++r) acc[r][t] = _mm256_fmadd_ps(w[r], in, acc[r][t]);
    }
  }
  for (int r = 0; r < NR; ++r) {
    for (int t = 0; t < NT; ++t) {
      alignas(32) float sums[8];
      _mm256_store_ps(sums, acc[r][t]);
      for (std::uint32_t i = k; i < k_end; ++i) {
        const float w = Weights::load(rows + static_cast<std::size_t>(r) * distance_bytes + i * Weights::bytes);
        sums[i % 8] = __builtin_fmaf(w, x[static_cast<std::size_t>(t) * ldx + i], sums[i % 8]);
      }
      y[static_cast<std::size_t>(t) * ldy + static_cast<std::size_t>(r) * distance] =
          ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
    }
  }
}

template <class Weights, int NR>
void plain_rows(const std::byte* rows, std::size_t row_bytes, std::size_t distance, const float* x, std::size_t ldx,
                std::uint32_t n_tokens, std::uint32_t k_end, float* y, std::size_t ldy) {
  std::uint32_t t = 0;
  for (; t + 2 <= n_tokens; t += 2)
    plain_tile<Weights, NR, 2>(rows, row_bytes, distance, x + t * ldx, ldx, k_end, y + t * ldy, ldy);
  if (t < n_tokens) plain_tile<Weights, NR, 1>(rows, row_bytes, distance, x + t * ldx, ldx, k_end, y + t * ldy, ldy);
}

template <class Weights>
void plain_gemv(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
                std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy) {
  const std::uint32_t panel_row_end = panel_end * quant::panel_rows,
                      row_end = panel_row_end < w.layout.rows ? panel_row_end : w.layout.rows;
  const std::size_t row_bytes = w.layout.k * Weights::bytes;
  const float* in = x.x + std::size_t{token_begin} * x.k_padded;
  // Four rows at a time, each at the head of its own quarter of the rows: memory is read as four long streams.
  constexpr std::uint32_t n_streams = 4;
  std::uint32_t row = panel_begin * quant::panel_rows;
  if (row >= row_end) return;
  const std::uint32_t part = (row_end - row) / n_streams, parts_end = row + n_streams * part;
  const auto multiply = [&]<int NR>(std::uint32_t first) {
    plain_rows<Weights, NR>(w.blob + first * row_bytes, row_bytes, part, in, x.k_padded, n_tokens, w.layout.k,
                            y + first, ldy);
  };
  for (const std::uint32_t end = row + part; row < end; ++row) multiply.template operator()<n_streams>(row);
  for (row = parts_end; row < row_end; ++row) multiply.template operator()<1>(row);
}

}  // namespace

void use_avx2_gemv(GemvFn* table) {
  use_shuffle_gemv<Vector256<MaddDot>>(table);
  use_shuffle_w8_gemv<Vector256<MaddDot>>(table);
  table[static_cast<int>(quant::Format::f32)] = plain_gemv<F32Weights>;
  table[static_cast<int>(quant::Format::bf16)] = plain_gemv<Bf16Weights>;
}

void use_avx2_gemm(GemmFn* table) {
  use_shuffle_gemm<Vector256<MaddDot>>(table);
  use_shuffle_w8_gemm<Vector256<MaddDot>>(table);
  table[static_cast<int>(quant::Format::f32)] = gemm_by_gemv<plain_gemv<F32Weights>>;
  table[static_cast<int>(quant::Format::bf16)] = gemm_by_gemv<plain_gemv<Bf16Weights>>;
}

bool quantize_row_avx2(const Activations& view, std::uint32_t token) {
  float* x = ActivationBuffer::x_row(view, token);
  for (std::uint32_t k = view.k; k < view.k_padded; ++k) x[k] = 0;
  const std::size_t row = std::size_t{token} * view.k_padded, q_row = std::size_t{token} * view.q_stride;
  auto* q = const_cast<std::int8_t*>(view.q) + q_row;
  auto* q_step2 = const_cast<std::int8_t*>(view.q_step2) + q_row;
  auto* q_step4 = const_cast<std::int8_t*>(view.q_step4) + q_row;
  auto* scale = const_cast<float*>(view.scale) + row / quant::superchunk_k;
  auto* block_sum = const_cast<std::int32_t*>(view.block_sum) + row / quant::block_k;

  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  const __m256i step2 = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4, 8, 12, 1, 5, 9, 13,
                                         2, 6, 10, 14, 3, 7, 11, 15);
  const __m256i step4 = _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15, 0, 2, 4, 6, 8, 10, 12,
                                         14, 1, 3, 5, 7, 9, 11, 13, 15);
  const __m256i gather2 = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7),
                in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256 most = _mm256_set1_ps(127.0f), least = _mm256_set1_ps(-127.0f);
  // Bits of |x| order as x does, and NaN and infinity come last.
  __m256i largest_of_row = _mm256_setzero_si256();
  for (std::uint32_t c = 0; c < view.k_padded; c += quant::superchunk_k) {
    __m256i largest = _mm256_setzero_si256();
    for (std::uint32_t k = c; k < c + quant::superchunk_k; k += 8) {
      largest = _mm256_max_epu32(largest, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + k)), magnitude));
    }
    largest_of_row = _mm256_max_epu32(largest_of_row, largest);
    __m128i quad = _mm_max_epu32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    quad = _mm_max_epu32(quad, _mm_shuffle_epi32(quad, 0x4e));
    quad = _mm_max_epu32(quad, _mm_shuffle_epi32(quad, 0xb1));
    const float s = _mm_cvtss_f32(_mm_castsi128_ps(quad)) / 127;
    scale[c / quant::superchunk_k] = s;
    for (std::uint32_t b = c; b < c + quant::superchunk_k; b += quant::block_k) {
      __m256i words[4];
#pragma GCC unroll 4
      for (std::uint32_t i = 0; i < 4; ++i) {
        // 0 / 0 is NaN, which min and max turn into the bound given second; the mask makes it zero.
        const __m256 ratio = _mm256_div_ps(_mm256_loadu_ps(x + b + 8 * i), _mm256_set1_ps(s));
        const __m256 bounded = _mm256_max_ps(_mm256_min_ps(ratio, most), least);
        words[i] = _mm256_cvtps_epi32(
            _mm256_and_ps(bounded, _mm256_cmp_ps(_mm256_set1_ps(s), _mm256_setzero_ps(), _CMP_GT_OQ)));
      }
      const __m256i packed =
          _mm256_packs_epi16(_mm256_packs_epi32(words[0], words[1]), _mm256_packs_epi32(words[2], words[3]));
      const __m256i bytes = _mm256_permutevar8x32_epi32(packed, in_order);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + b), bytes);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(q_step2 + b),
                          _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(bytes, step2), gather2));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(q_step4 + b), _mm256_shuffle_epi8(bytes, step4));
      const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
      const __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
      __m128i sums = _mm_add_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));
      sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0x4e));
      sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0xb1));
      block_sum[b / quant::block_k] = _mm_cvtsi128_si32(sums);
    }
  }
  const __m256i infinity = _mm256_set1_epi32(0x7f800000);
  const __m256i finite = _mm256_cmpgt_epi32(infinity, largest_of_row);
  if (_mm256_movemask_epi8(finite) == -1) return true;
  std::memset(q, 0, view.k_padded);
  std::memset(q_step2, 0, view.k_padded);
  std::memset(q_step4, 0, view.k_padded);
  std::memset(scale, 0, view.k_padded / quant::superchunk_k * sizeof(float));
  std::memset(block_sum, 0, view.k_padded / quant::block_k * sizeof(std::int32_t));
  return false;
}

}  // namespace r1::simd
