// f32 rows → what prefill attention multiplies; one instance for all instruction sets (AVX2).
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "quant/fp8.h"
#include "simd/kernels.h"
#include "simd/prefill_attention.h"

namespace r1::simd {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr std::uint32_t lanes = 8;

// max|x|; NaN where x holds NaN or infinity.
float largest_of(const float* x, std::uint32_t n) {
  // Bits of |x| order as x does, and NaN and infinity come last.
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i most = _mm256_setzero_si256();
  std::uint32_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    most = _mm256_max_epi32(most,
                            _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i)), magnitude));
  }
  alignas(32) std::int32_t most_of[lanes];
  _mm256_store_si256(reinterpret_cast<__m256i*>(most_of), most);
  std::int32_t largest = *std::max_element(most_of, most_of + lanes);
  for (; i < n; ++i) largest = std::max(largest, std::bit_cast<std::int32_t>(x[i]) & 0x7fffffff);
  return largest >= 0x7f800000 ? nan : std::bit_cast<float>(largest);
}

// The length of x; NaN where x holds NaN or infinity. Scaled by the largest first, so that squares stay in range.
float norm_of(const float* x, std::uint32_t n) {
  const float largest = largest_of(x, n);
  if (!(largest > 0)) return largest;
  if (largest < 1e-30f) return largest * std::sqrt(static_cast<float>(n));  // no less than it
  const __m256 per_largest = _mm256_set1_ps(1.0f / largest);
  __m256 squares = _mm256_setzero_ps();
  std::uint32_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const __m256 y = _mm256_mul_ps(_mm256_loadu_ps(x + i), per_largest);
    squares = _mm256_fmadd_ps(y, y, squares);
  }
  alignas(32) float square_of[lanes];
  _mm256_store_ps(square_of, squares);
  float sum = 0;
  for (const float square : square_of) sum += square;
  for (; i < n; ++i) sum = std::fma(x[i] / largest, x[i] / largest, sum);
  return largest * std::sqrt(sum);
}

// Products of two vectors of this length stay below 2^31, and rounding adds half the root of their width at most.
constexpr float word_norm = 46000;

float key_scale(PrefillKind kind, const float* x, std::uint32_t n) {
  if (kind == PrefillKind::i8) return largest_of(x, n) / 127;
  // A vector of one element would not fit a word by its norm alone.
  return std::max(norm_of(x, n) / word_norm, largest_of(x, n) / 32000);
}

float value_scale(PrefillKind kind, const float* x, std::uint32_t n) {
  return largest_of(x, n) / (kind == PrefillKind::i8 ? 127 : prefill_largest_word_value);
}

// Sixteen of x / scale to nearest, as words; those from n on are 0.
class Rounder {
 public:
  Rounder(float scale, float most) : most_(_mm256_set1_ps(most)), least_(_mm256_set1_ps(-most)) {
    const bool usable = scale > std::numeric_limits<float>::min();  // else codes of 0: the scale tells of NaN
    per_scale_ = _mm256_set1_ps(usable ? 1.0f / scale : 0.0f);
    zero_ = !usable;
  }
  [[nodiscard]] __m256i words(const float* x, std::uint32_t n) const {
    if (zero_) return _mm256_setzero_si256();
    float tail[2 * lanes] = {};
    if (n < 2 * lanes) {
      std::memcpy(tail, x, n * sizeof(float));
      x = tail;
    }
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(rounded(x), rounded(x + lanes)), 0xd8);
  }
  [[nodiscard]] __m128i bytes(const float* x, std::uint32_t n) const {
    const __m256i w = words(x, n);
    return _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
  }

 private:
  [[nodiscard]] __m256i rounded(const float* x) const {
    const __m256 ratio = _mm256_mul_ps(_mm256_loadu_ps(x), per_scale_);
    return _mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(ratio, most_), least_));
  }
  __m256 per_scale_, most_, least_;
  bool zero_ = false;
};

constexpr std::uint32_t piece = 2 * lanes;

void store(std::byte* p, __m128i x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), x);
}

float most_code(PrefillKind kind) {
  return kind == PrefillKind::i8 ? 127.0f : 32767.0f;
}

// Sixteen words' bytes apart.
struct Planes {
  __m128i upper, lower;

  explicit Planes(__m256i words)
      : upper(bytes(_mm256_srli_epi16(words, 8))), lower(bytes(_mm256_and_si256(words, _mm256_set1_epi16(0xff)))) {}

 private:
  static __m128i bytes(__m256i small) {
    return _mm_packus_epi16(_mm256_castsi256_si128(small), _mm256_extracti128_si256(small, 1));
  }
};

// Four groups of one key of a block.
void store_groups(std::byte* out, __m128i x) {
  alignas(16) std::byte groups[piece];
  _mm_store_si128(reinterpret_cast<__m128i*>(groups), x);
  for (std::uint32_t group = 0; group < 4; ++group)
    std::memcpy(out + std::size_t{group} * 4 * prefill_block_rows, groups + std::size_t{group} * 4, 4);
}

// Four rows' sixteen bytes → [16, 4 rows]
void store_fours(std::byte* out, __m128i a, __m128i b, __m128i c, __m128i d) {
  const __m128i ab = _mm_unpacklo_epi8(a, b), cd = _mm_unpacklo_epi8(c, d);
  const __m128i ab_high = _mm_unpackhi_epi8(a, b), cd_high = _mm_unpackhi_epi8(c, d);
  store(out, _mm_unpacklo_epi16(ab, cd));
  store(out + 16, _mm_unpackhi_epi16(ab, cd));
  store(out + 32, _mm_unpacklo_epi16(ab_high, cd_high));
  store(out + 48, _mm_unpackhi_epi16(ab_high, cd_high));
}

}  // namespace

void pack_prefill_keys(const PrefillShape& shape, int part, const float* x, std::size_t ldx, std::uint32_t first_row,
                       std::uint32_t n_rows, std::byte* codes, std::size_t block_bytes, float* scale) {
  const std::uint32_t width = shape.width[part], n_groups = shape.groups(part);
  const bool bytes = shape.kind == PrefillKind::i8;
  const __m128i offset = _mm_set1_epi8(static_cast<char>(shape.tiles ? 0 : 0x80));
  for (std::uint32_t i = 0; i < n_rows; ++i, x += ldx) {
    const std::uint32_t row = first_row + i;
    scale[row] = key_scale(shape.kind, x, width);
    const Rounder rounder(scale[row], most_code(shape.kind));
    std::byte* out = codes + row / prefill_block_rows * block_bytes + row % prefill_block_rows * 4;
    if (shape.planes()) {
      for (std::uint32_t k = 0; k < width; k += piece) {
        const Planes planes(rounder.words(x + k, piece));
        store_groups(out + std::size_t{k} * prefill_block_rows, planes.upper);
        store_groups(out + std::size_t{width + k} * prefill_block_rows, planes.lower);
      }
      continue;
    }
    std::uint32_t group = 0;
    for (std::uint32_t k = 0; k < width; k += piece) {
      const std::uint32_t n = std::min(piece, width - k);
      alignas(32) std::byte groups[2 * piece];
      if (bytes) {
        _mm_store_si128(reinterpret_cast<__m128i*>(groups), _mm_xor_si128(rounder.bytes(x + k, n), offset));
      } else {
        _mm256_store_si256(reinterpret_cast<__m256i*>(groups), rounder.words(x + k, n));
      }
      const std::uint32_t end = std::min(group + (bytes ? piece / 4 : piece / 2), n_groups);
      for (const std::byte* in = groups; group < end; ++group, in += 4)
        std::memcpy(out + std::size_t{group} * 4 * prefill_block_rows, in, 4);
    }
  }
}

void pack_prefill_values(const PrefillShape& shape, const float* x, std::size_t ldx, std::uint32_t n_rows,
                         std::byte* codes, float* scale) {
  const std::uint32_t width = shape.d_v;
  const std::uint32_t group_rows = shape.planes() ? 4 : prefill_group_elements(shape.kind);
  for (std::uint32_t row = 0; row < n_rows; ++row) scale[row] = value_scale(shape.kind, x + row * ldx, width);
  for (std::uint32_t row = 0; row < n_rows; row += group_rows) {
    // Rows behind the last are not seen: they repeat it.
    const auto at = [&](std::uint32_t i) { return std::min(row + i, n_rows - 1); };
    const auto rounder = [&](std::uint32_t i) { return Rounder(scale[at(i)], most_code(shape.kind)); };
    std::byte* out = codes + std::size_t{row / group_rows} * 64;
    const std::size_t next_strip = shape.value_strip_bytes();
    if (group_rows == 2) {
      const Rounder r0 = rounder(0), r1 = rounder(1);
      for (std::uint32_t k = 0; k < width; k += piece, out += next_strip) {
        const std::uint32_t n = std::min(piece, width - k);
        const __m256i a = r0.words(x + at(0) * ldx + k, n), b = r1.words(x + at(1) * ldx + k, n);
        const __m256i low = _mm256_unpacklo_epi16(a, b), high = _mm256_unpackhi_epi16(a, b);
        store(out, _mm256_castsi256_si128(low));
        store(out + 16, _mm256_castsi256_si128(high));
        store(out + 32, _mm256_extracti128_si256(low, 1));
        store(out + 48, _mm256_extracti128_si256(high, 1));
      }
      continue;
    }
    const Rounder r0 = rounder(0), r1 = rounder(1), r2 = rounder(2), r3 = rounder(3);
    for (std::uint32_t k = 0; k < width; k += piece, out += next_strip) {
      const std::uint32_t n = std::min(piece, width - k);
      const float *x0 = x + at(0) * ldx + k, *x1 = x + at(1) * ldx + k, *x2 = x + at(2) * ldx + k,
                  *x3 = x + at(3) * ldx + k;
      if (shape.planes()) {
        const Planes a(r0.words(x0, n)), b(r1.words(x1, n)), c(r2.words(x2, n)), d(r3.words(x3, n));
        store_fours(out, a.upper, b.upper, c.upper, d.upper);
        store_fours(out + next_strip / 2, a.lower, b.lower, c.lower, d.lower);
      } else {
        store_fours(out, r0.bytes(x0, n), r1.bytes(x1, n), r2.bytes(x2, n), r3.bytes(x3, n));
      }
    }
  }
}

void prefill_scale_max(const float* scale, std::uint32_t n_rows, float* scale_max) {
  float most = 0;
  for (std::uint32_t row = 0; row < n_rows; ++row) {
    if (scale[row] > most || scale[row] != scale[row]) most = scale[row];
    scale_max[row] = most;
  }
}

void pack_prefill_query(const PrefillShape& shape, const float* x, float factor, std::byte* codes, float* scale,
                        std::int32_t* start) {
  scale[1] = 0;
  start[0] = start[1] = 0;
  for (int part = 0; part < shape.parts(); ++part) {
    const std::uint32_t width = shape.width[part];
    const float step = key_scale(shape.kind, x, width);
    scale[part] = step * factor;
    const Rounder rounder(step, most_code(shape.kind));
    std::memset(codes, 0, std::size_t{shape.groups(part)} * 4);
    for (std::uint32_t k = 0; k < width; k += piece) {
      const std::uint32_t n = std::min(piece, width - k);
      if (shape.planes()) {
        const Planes planes(rounder.words(x + k, n));
        store(codes + k, planes.upper);
        store(codes + width + k, planes.lower);
        continue;
      }
      if (shape.kind == PrefillKind::i16) {
        alignas(32) std::int16_t words[piece];
        _mm256_store_si256(reinterpret_cast<__m256i*>(words), rounder.words(x + k, n));
        std::memcpy(codes + std::size_t{k} * 2, words, n * sizeof(std::int16_t));
        continue;
      }
      alignas(16) std::int8_t bytes[piece];
      _mm_store_si128(reinterpret_cast<__m128i*>(bytes), rounder.bytes(x + k, n));
      std::memcpy(codes + k, bytes, n);
      if (shape.tiles) continue;
      for (std::uint32_t i = 0; i < n; ++i) start[part] -= 128 * bytes[i];
    }
    x += width;
    codes += std::size_t{shape.groups(part)} * 4;
  }
}

void load_kv(KvType type, const void* in, std::size_t n, float* out) {
  const auto* halves = static_cast<const std::uint16_t*>(in);
  std::size_t i = 0;
  switch (type) {
    case KvType::f32:
      std::memcpy(out, in, n * sizeof(float));
      break;
    case KvType::f16:
      for (; i + lanes <= n; i += lanes) {
        const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(halves + i));
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(x));
      }
      for (; i < n; ++i) out[i] = quant::f16_to_f32(halves[i]);
      break;
    case KvType::bf16:
      for (; i < n; ++i) out[i] = quant::bf16_to_f32(halves[i]);
      break;
    case KvType::q8:
      break;
  }
}

}  // namespace r1::simd
