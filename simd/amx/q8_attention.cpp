// Attention of single tokens over a q8 cache by AMX-INT8: sixteen heads are the rows of a tile. Keys and values lie in
// the cache as tiles want them: four k of sixteen columns side by side. Integer sums, so VNNI's bits.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd/amx/gemm.h"
#include "simd/amx/tiles_or_emulated.h"
#include "simd/avx512_vnni/gemv.h"

namespace r1::simd {
namespace {

constexpr std::uint32_t tile_heads = 16, tile_k = 64;
constexpr std::size_t tile_bytes = 1024;
constexpr std::uint32_t together = 4;  // blocks of sixteen rows: so many sums hide the latency of each

using Sums = std::int32_t[tile_heads][16];

// What is left over, and shapes that do not fill tiles.
const Kernels& vnni() {
  static const Kernels kernels = [] {
    Kernels k;
    use_avx512_vnni_q8_attention(k);
    return k;
  }();
  return kernels;
}

// sums[block] = queries · keys of one part for N blocks of rows.
//   q: of the part [16, ldq]; keys: of the part in the first block
template <std::uint32_t N>
void multiply_keys(const std::int8_t* q, std::size_t ldq, const std::uint8_t* keys, std::size_t block_bytes,
                   std::uint32_t n_products, Sums* sums) {
  const auto each = [](auto&& body) {
    body.template operator()<0>();
    if constexpr (N > 1) body.template operator()<1>();
    if constexpr (N > 2) body.template operator()<2>();
    if constexpr (N > 3) body.template operator()<3>();
  };
  each([]<int B>() { Tiles::zero<B>(); });
  for (std::uint32_t i = 0; i < n_products; ++i) {
    Tiles::load<4>(q + std::size_t{i} * tile_k, ldq);
    each([&]<int B>() {
      constexpr int keys_register = 5 + B % 3;
      Tiles::load<keys_register>(keys + B * block_bytes + i * tile_bytes, 64);
      Tiles::multiply_signed_unsigned<B, 4, keys_register>();
    });
  }
  each([&]<int B>() { Tiles::store<B>(sums[B], 64); });
}

// Scores of sixteen heads for N blocks of rows from `row` on.
template <std::uint32_t N>
void score_blocks(const Q8KeyShape& shape, const Q8Queries& queries, std::uint32_t head, const std::byte* page,
                  std::uint32_t row, float* scores, std::size_t lds) {
  const auto* codes = reinterpret_cast<const std::uint8_t*>(page) + row / q8_block_rows * shape.block_bytes();
  const auto* scales = reinterpret_cast<const float*>(page + shape.code_bytes()) + row;
  const std::size_t ldq = std::size_t{shape.quads()} * 4;
  alignas(64) Sums sums[2][N];
  const std::int8_t* q = queries.q + head * ldq;
  for (int part = 0; part < shape.parts(); ++part) {
    multiply_keys<N>(q, ldq, codes, shape.block_bytes(), shape.width[part] / tile_k, sums[part]);
    q += shape.width[part];
    codes += std::size_t{shape.quads(part)} * 4 * q8_block_rows;
  }
  for (std::uint32_t h = 0; h < tile_heads; ++h) {
    float* to = scores + (head + h) * lds + row;
    for (int part = 0; part < shape.parts(); ++part) {
      const std::size_t of_head = 2 * std::size_t{head + h} + static_cast<std::size_t>(part);
      const __m512i start = _mm512_set1_epi32(-128 * queries.sum[of_head]);  // codes are 128 too large
      const __m512 query_scale = _mm512_set1_ps(queries.scale[of_head]);
#pragma GCC unroll 4
      for (std::uint32_t b = 0; b < N; ++b) {
        const __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_load_si512(sums[part][b][h]), start));
        const float* key_scale = scales + static_cast<std::size_t>(part) * shape.page_rows + 16 * b;
        const __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(key_scale), query_scale);
        _mm512_storeu_ps(to + 16 * b, part == 0 ? _mm512_mul_ps(sum, scale)
                                                : _mm512_fmadd_ps(sum, scale, _mm512_loadu_ps(to + 16 * b)));
      }
    }
  }
}

void q8_qk(const Q8KeyShape& shape, const Q8Queries& queries, std::uint32_t n_heads, const std::byte* page,
           std::uint32_t n_kv, float* scores, std::size_t lds) {
  std::uint32_t head = 0;
  if (n_heads >= tile_heads && shape.width[0] % tile_k == 0 && shape.width[1] % tile_k == 0) {
    const Tiles configured(tile_heads, tile_k);
    const std::uint32_t n_blocks = (n_kv + q8_block_rows - 1) / q8_block_rows;
    for (; head + tile_heads <= n_heads; head += tile_heads) {
      std::uint32_t block = 0;
      for (; block + together <= n_blocks; block += together)
        score_blocks<together>(shape, queries, head, page, block * q8_block_rows, scores, lds);
      for (; block < n_blocks; ++block) score_blocks<1>(shape, queries, head, page, block * q8_block_rows, scores, lds);
    }
  }
  if (head == n_heads) return;
  const Q8Queries rest{queries.q + std::size_t{head} * shape.quads() * 4, queries.scale + 2 * std::size_t{head},
                       queries.sum + 2 * std::size_t{head}};
  vnni().q8_qk(shape, rest, n_heads - head, page, n_kv, scores + head * lds, lds);
}

// out += weights · values of sixteen heads. weights: whole tiles [16, ldw], zeros behind the last row.
void add_values(const Q8ValueShape& shape, const std::uint8_t* weights, std::size_t ldw, std::uint32_t n_products,
                const float* step, const std::int8_t* values, const float* keep, float* out, std::size_t ldo) {
  alignas(64) Sums sums[2];
  const std::uint32_t n_strips = shape.width / 16;
  for (std::uint32_t strip = 0; strip < n_strips; strip += 2) {
    const bool two = strip + 1 < n_strips;
    const std::int8_t* first = values + strip * shape.strip_bytes();
    const std::int8_t* second = two ? first + shape.strip_bytes() : first;
    Tiles::zero<0>();
    Tiles::zero<1>();
    for (std::uint32_t i = 0; i < n_products; ++i) {
      Tiles::load<4>(weights + std::size_t{i} * tile_k, ldw);
      Tiles::load<6>(first + i * tile_bytes, 64);
      Tiles::multiply_unsigned_signed<0, 4, 6>();
      Tiles::load<7>(second + i * tile_bytes, 64);
      Tiles::multiply_unsigned_signed<1, 4, 7>();
    }
    Tiles::store<0>(sums[0], 64);
    Tiles::store<1>(sums[1], 64);
    for (std::uint32_t h = 0; h < tile_heads; ++h) {
      for (std::uint32_t s = 0; s < (two ? 2u : 1u); ++s) {
        float* to = out + h * ldo + 16 * std::size_t{strip + s};
        __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums[s][h])), _mm512_set1_ps(step[h]));
        if (keep != nullptr) y = _mm512_fmadd_ps(_mm512_loadu_ps(to), _mm512_set1_ps(keep[h]), y);
        _mm512_storeu_ps(to, y);
      }
    }
  }
}

void q8_pv(const Q8ValueShape& shape, const std::uint8_t* weights, std::size_t ldw, const float* step,
           std::uint32_t n_heads, const std::int8_t* values, std::uint32_t n_kv, const float* keep, float* out,
           std::size_t ldo) {
  constexpr std::uint32_t most_rows = 512;  // of a page whose weights may have to be filled up
  std::uint32_t head = 0;
  if (n_heads >= tile_heads && shape.width % 16 == 0 && shape.page_rows % tile_k == 0 && shape.page_rows <= most_rows) {
    const Tiles configured(tile_heads, tile_k);
    const std::uint32_t n_products = (n_kv + tile_k - 1) / tile_k, n_whole = n_products * tile_k;
    alignas(64) std::uint8_t filled[tile_heads][most_rows];
    for (; head + tile_heads <= n_heads; head += tile_heads) {
      const std::uint8_t* rows = weights + head * ldw;
      std::size_t ld = ldw;
      if (n_kv != n_whole) {
        const std::uint32_t n = (n_kv + 3) / 4 * 4;  // rows that count
        for (std::uint32_t h = 0; h < tile_heads; ++h) {
          std::memcpy(filled[h], rows + h * ldw, n);
          std::memset(filled[h] + n, 0, n_whole - n);
        }
        rows = filled[0];
        ld = most_rows;
      }
      add_values(shape, rows, ld, n_products, step + head, values, keep == nullptr ? nullptr : keep + head,
                 out + head * ldo, ldo);
    }
  }
  if (head == n_heads) return;
  vnni().q8_pv(shape, weights + head * ldw, ldw, step + head, n_heads - head, values, n_kv,
               keep == nullptr ? nullptr : keep + head, out + head * ldo, ldo);
}

}  // namespace

void use_amx_q8_attention(Kernels& kernels) {
  kernels.q8_qk = q8_qk;
  kernels.q8_pv = q8_pv;
}

}  // namespace r1::simd
