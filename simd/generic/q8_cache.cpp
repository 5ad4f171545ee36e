// Rows of a q8 cache: quantization and layout, one instance for all instruction sets.
#include "simd/q8_cache.h"

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <numeric>

namespace r1::simd {
namespace {

// max|x| / 127, or NaN if x holds NaN or infinity.
float scale_of(const float* x, std::uint32_t n) {
  // Bits of |x| order as x does, and NaN and infinity come last.
  std::uint32_t largest = 0;
  for (std::uint32_t i = 0; i < n; ++i) {
    const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  if (largest >= 0x7f800000u) return std::numeric_limits<float>::quiet_NaN();
  return std::bit_cast<float>(largest) / 127;
}

// x / scale to nearest, n ≤ 32; 0 where the scale is 0 or NaN.
void codes_of(const float* x, std::uint32_t n, float scale, std::int8_t* codes) {
  alignas(32) float padded[32] = {};
  if (scale > 0) std::memcpy(padded, x, n * sizeof(float));
  const __m256 divisor = _mm256_set1_ps(scale > 0 ? scale : 1.0f);
  const __m256 most = _mm256_set1_ps(127), least = _mm256_set1_ps(-127);  // a subnormal scale is inexact
  __m256i words[4];
  for (int i = 0; i < 4; ++i) {
    const __m256 ratio = _mm256_div_ps(_mm256_load_ps(padded + 8 * i), divisor);
    words[i] = _mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(ratio, most), least));
  }
  const __m256i packed =
      _mm256_packs_epi16(_mm256_packs_epi32(words[0], words[1]), _mm256_packs_epi32(words[2], words[3]));
  alignas(32) std::int8_t bytes[32];
  _mm256_store_si256(reinterpret_cast<__m256i*>(bytes),
                     _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
  std::memcpy(codes, bytes, n);
}

constexpr std::uint32_t piece = 32;  // elements that codes_of takes at a time

constexpr int key_offset = 128;

std::byte* key_quad(const Q8KeyShape& shape, std::byte* page, std::uint32_t row, std::uint32_t quad) {
  return page + row / q8_block_rows * shape.block_bytes() +
         (std::size_t{quad} * q8_block_rows + row % q8_block_rows) * 4;
}

float* key_scale(const Q8KeyShape& shape, std::byte* page, std::uint32_t row, int part) {
  return reinterpret_cast<float*>(page + shape.code_bytes()) + static_cast<std::size_t>(part) * shape.page_rows + row;
}

std::byte* value_code(const Q8ValueShape& shape, std::byte* page, std::uint32_t row, std::uint32_t i) {
  return page + i / 16 * shape.strip_bytes() + (std::size_t{row / 4} * 16 + i % 16) * 4 + row % 4;
}

float* value_scale(const Q8ValueShape& shape, std::byte* page, std::uint32_t row) {
  return reinterpret_cast<float*>(page + shape.code_bytes()) + row;
}

std::byte* writable(const std::byte* page) {
  return const_cast<std::byte*>(page);
}

}  // namespace

void store_q8_key(const Q8KeyShape& shape, const float* x, std::byte* page, std::uint32_t row) {
  std::uint32_t first_quad = 0;
  for (int part = 0; part < shape.parts(); ++part) {
    const std::uint32_t width = shape.width[part];
    const float scale = scale_of(x, width);
    *key_scale(shape, page, row, part) = scale;
    for (std::uint32_t first = 0; first < width; first += piece) {
      const std::uint32_t n = std::min(piece, width - first), n_quads = (n + 3) / 4;
      alignas(4) std::int8_t codes[piece] = {};
      codes_of(x + first, n, scale, codes);
      for (std::int8_t& code : codes) code = static_cast<std::int8_t>(code ^ -key_offset);  // + 128
      for (std::uint32_t quad = 0; quad < n_quads; ++quad) {
        std::memcpy(key_quad(shape, page, row, first_quad + first / 4 + quad), codes + std::size_t{quad} * 4, 4);
      }
    }
    x += width;
    first_quad += shape.quads(part);
  }
}

void store_q8_value(const Q8ValueShape& shape, const float* x, std::byte* page, std::uint32_t row) {
  const float scale = scale_of(x, shape.width);
  *value_scale(shape, page, row) = scale;
  for (std::uint32_t first = 0; first < shape.width; first += piece) {
    const std::uint32_t n = std::min(piece, shape.width - first);
    std::int8_t codes[piece];
    codes_of(x + first, n, scale, codes);
    for (std::uint32_t i = 0; i < n; ++i) *value_code(shape, page, row, first + i) = static_cast<std::byte>(codes[i]);
  }
}

void quantize_q8_query(const Q8KeyShape& shape, const float* x, std::int8_t* q, float* scale, std::int32_t* sum) {
  scale[1] = 0;
  sum[1] = 0;
  for (int part = 0; part < shape.parts(); ++part) {
    const std::uint32_t width = shape.width[part];
    scale[part] = scale_of(x, width);
    std::memset(q, 0, std::size_t{shape.quads(part)} * 4);
    for (std::uint32_t first = 0; first < width; first += piece) {
      codes_of(x + first, std::min(piece, width - first), scale[part], q + first);
    }
    sum[part] = std::accumulate(q, q + width, std::int32_t{0});
    x += width;
    q += std::size_t{shape.quads(part)} * 4;
  }
}

void keys_to_values(const Q8KeyShape& shape, const std::byte* page, std::uint32_t n_rows, std::int8_t* values) {
  const Q8ValueShape as_values{shape.page_rows, shape.width[0]};
  // A register is four rows by four elements: bytes turn around in it, and keys lose their offset.
  const __m128i turn = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m128i offset = _mm_set1_epi8(static_cast<char>(key_offset));
  for (std::uint32_t first = 0; first < shape.quads(0); first += 4) {  // outside: strips lie 4 KiB apart
    const std::uint32_t n_quads = std::min(4u, shape.quads(0) - first);
    for (std::uint32_t block = 0; block < n_rows; block += q8_block_rows) {
      const std::byte* in = key_quad(shape, writable(page), block, first);
      std::int8_t* out = values + first / 4 * as_values.strip_bytes() + std::size_t{block} * 16;
      for (std::uint32_t quad = 0; quad < n_quads; ++quad) {
        for (std::uint32_t row = 0; row < q8_block_rows; row += 4) {
          const __m128i keys =
              _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + (quad * q8_block_rows + std::size_t{row}) * 4));
          _mm_storeu_si128(reinterpret_cast<__m128i*>(out + std::size_t{row} * 16 + quad * 16),
                           _mm_xor_si128(_mm_shuffle_epi8(keys, turn), offset));
        }
      }
    }
  }
}

void read_q8_key(const Q8KeyShape& shape, const std::byte* page, std::uint32_t row, std::byte* out) {
  for (std::uint32_t quad = 0; quad < shape.quads(); ++quad, out += 4) {
    std::memcpy(out, key_quad(shape, writable(page), row, quad), 4);
  }
  for (int part = 0; part < shape.parts(); ++part, out += 4) {
    std::memcpy(out, key_scale(shape, writable(page), row, part), 4);
  }
}

void write_q8_key(const Q8KeyShape& shape, const std::byte* in, std::byte* page, std::uint32_t row) {
  for (std::uint32_t quad = 0; quad < shape.quads(); ++quad, in += 4) {
    std::memcpy(key_quad(shape, page, row, quad), in, 4);
  }
  for (int part = 0; part < shape.parts(); ++part, in += 4) std::memcpy(key_scale(shape, page, row, part), in, 4);
}

void read_q8_value(const Q8ValueShape& shape, const std::byte* page, std::uint32_t row, std::byte* out) {
  for (std::uint32_t i = 0; i < shape.width; ++i) out[i] = *value_code(shape, writable(page), row, i);
  std::memcpy(out + shape.width, value_scale(shape, writable(page), row), 4);
}

void write_q8_value(const Q8ValueShape& shape, const std::byte* in, std::byte* page, std::uint32_t row) {
  for (std::uint32_t i = 0; i < shape.width; ++i) *value_code(shape, page, row, i) = in[i];
  std::memcpy(value_scale(shape, page, row), in + shape.width, 4);
}

}  // namespace r1::simd
