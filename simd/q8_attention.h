// Internal to simd/: both products of attention over a q8 cache, for any register width and any way `V` to multiply
// unsigned by signed bytes. A tile is some heads by some registers of rows (or of elements): enough sums to hide the
// latency of a dot product, few enough loads to keep it fed. Internal linkage, as in trellis_shape.h.
//
// V gives: Sum, Unsigned, Signed; lanes; Tile of qk and of pv; load_unsigned, load_signed, broadcast_unsigned,
// broadcast_signed (four bytes); dot(sum, Unsigned, Signed); Floats, load, store, set, multiply, fma, to_floats,
// set_sum.
#pragma once

#include <cstring>

#include "simd/q8_cache.h"

namespace r1::simd {
namespace {

struct Q8Tile {
  std::uint32_t heads = 0;  // 4 or 8
  int registers = 0;        // 2 or 4
};

template <class V, int NH, int NR>
[[gnu::always_inline]] inline void q8_qk_tile(const Q8KeyShape& shape, const Q8Queries& queries, std::uint32_t head,
                                              const std::uint8_t* codes, const float* scales, std::uint32_t row,
                                              float* scores, std::size_t lds) {
  const std::size_t ldq = std::size_t{shape.quads()} * 4;
  const std::uint8_t* k[NR];  // register r holds rows row + r · lanes …
  for (int r = 0; r < NR; ++r) {
    const std::uint32_t first = row + static_cast<std::uint32_t>(r * V::lanes);
    k[r] = codes + first / q8_block_rows * shape.block_bytes() + first % q8_block_rows * 4;
  }
  std::uint32_t quad = 0;
  for (int part = 0; part < shape.parts(); ++part) {
    typename V::Sum sum[NH][NR];
#pragma GCC unroll 8
    for (int h = 0; h < NH; ++h) {
      // The keys' codes are unsigned, 128 too large.
      const auto start =
          V::set_sum(-128 * queries.sum[2 * (head + static_cast<std::uint32_t>(h)) + static_cast<std::uint32_t>(part)]);
      for (int r = 0; r < NR; ++r) sum[h][r] = start;
    }
    for (const std::uint32_t end = quad + shape.quads(part); quad < end; ++quad) {
      const std::int8_t* q = queries.q + head * ldq + std::size_t{quad} * 4;
      typename V::Unsigned keys[NR];
#pragma GCC unroll 4
      for (int r = 0; r < NR; ++r) keys[r] = V::load_unsigned(k[r] + std::size_t{quad} * 4 * q8_block_rows);
#pragma GCC unroll 8
      for (int h = 0; h < NH; ++h) {
        const auto query = V::broadcast_signed(q + static_cast<std::size_t>(h) * ldq);
#pragma GCC unroll 4
        for (int r = 0; r < NR; ++r) sum[h][r] = V::dot(sum[h][r], keys[r], query);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < NR; ++r) {
      const std::uint32_t first = row + static_cast<std::uint32_t>(r * V::lanes);
      const auto key_scale = V::load(scales + static_cast<std::size_t>(part) * shape.page_rows + first);
#pragma GCC unroll 8
      for (int h = 0; h < NH; ++h) {
        const std::uint32_t at = head + static_cast<std::uint32_t>(h);
        const auto scale = V::multiply(key_scale, V::set(queries.scale[2 * at + static_cast<std::uint32_t>(part)]));
        float* out = scores + at * lds + first;
        V::store(out, part == 0 ? V::multiply(V::to_floats(sum[h][r]), scale)
                                : V::fma(V::to_floats(sum[h][r]), scale, V::load(out)));
      }
    }
  }
}

// Calls body.operator()<NH>(head) over heads 0 … n_heads − 1, TileHeads, then 4, 2 and 1 at a time.
template <std::uint32_t TileHeads, class Body>
inline void q8_for_heads(std::uint32_t n_heads, Body&& body) {
  std::uint32_t head = 0;
  for (; head + TileHeads <= n_heads; head += TileHeads) body.template operator()<TileHeads>(head);
  if constexpr (TileHeads > 4) {
    for (; head + 4 <= n_heads; head += 4) body.template operator()<4>(head);
  }
  for (; head + 2 <= n_heads; head += 2) body.template operator()<2>(head);
  if (head < n_heads) body.template operator()<1>(head);
}

template <class V>
void q8_qk(const Q8KeyShape& shape, const Q8Queries& queries, std::uint32_t n_heads, const std::byte* page,
           std::uint32_t n_kv, float* scores, std::size_t lds) {
  const auto* codes = reinterpret_cast<const std::uint8_t*>(page);
  const auto* scales = reinterpret_cast<const float*>(page + shape.code_bytes());
  const std::uint32_t n_rows = (n_kv + q8_block_rows - 1) / q8_block_rows * q8_block_rows;
  // Heads outside: the keys come in one long stream, which the prefetchers follow.
  q8_for_heads<V::qk_tile.heads>(n_heads, [&]<int NH>(std::uint32_t head) {
    std::uint32_t row = 0;
    const auto rows = [&]<int NR>() {
      for (; row + V::lanes * NR <= n_rows; row += V::lanes * NR)
        q8_qk_tile<V, NH, NR>(shape, queries, head, codes, scales, row, scores, lds);
    };
    rows.template operator()<V::qk_tile.registers>();
    if constexpr (V::qk_tile.registers > 2) rows.template operator()<2>();
    rows.template operator()<1>();
  });
}

// Elements first … of NH heads, NR registers of them. values: where they begin; two registers of 16 lie in two strips.
template <class V, int NH, int NR>
[[gnu::always_inline]] inline void q8_pv_tile(const Q8ValueShape& shape, const std::uint8_t* weights, std::size_t ldw,
                                              const float* step, const std::int8_t* values, std::uint32_t n_quads,
                                              std::uint32_t first, const float* keep, float* out, std::size_t ldo) {
  constexpr std::size_t quad_bytes = 64;
  typename V::Sum sum[NH][NR];
  const std::int8_t* v[NR];
#pragma GCC unroll 8
  for (int r = 0; r < NR; ++r) {
    const std::uint32_t begin = first + static_cast<std::uint32_t>(r * V::lanes);
    v[r] = values + begin / 16 * shape.strip_bytes() + std::size_t{begin % 16} * 4;
#pragma GCC unroll 8
    for (int h = 0; h < NH; ++h) sum[h][r] = V::set_sum(0);
  }
  for (std::uint32_t quad = 0; quad < n_quads; ++quad) {
    typename V::Signed value[NR];
#pragma GCC unroll 2
    for (int r = 0; r < NR; ++r) value[r] = V::load_signed(v[r] + quad * quad_bytes);
#pragma GCC unroll 8
    for (int h = 0; h < NH; ++h) {
      const auto weight = V::broadcast_unsigned(weights + static_cast<std::size_t>(h) * ldw + std::size_t{quad} * 4);
#pragma GCC unroll 2
      for (int r = 0; r < NR; ++r) sum[h][r] = V::dot(sum[h][r], weight, value[r]);
    }
  }
#pragma GCC unroll 8
  for (int h = 0; h < NH; ++h) {
#pragma GCC unroll 2
    for (int r = 0; r < NR; ++r) {
      auto y = V::multiply(V::to_floats(sum[h][r]), V::set(step[h]));
      const std::uint32_t begin = first + static_cast<std::uint32_t>(r * V::lanes);
      float* to = out + static_cast<std::size_t>(h) * ldo + begin;
      if (begin + V::lanes <= shape.width) {
        if (keep != nullptr) y = V::fma(V::load(to), V::set(keep[h]), y);
        V::store(to, y);
      } else if (begin < shape.width) {
        float tail[V::lanes] = {};
        const std::size_t bytes = (shape.width - begin) * sizeof(float);
        if (keep != nullptr) {
          std::memcpy(tail, to, bytes);
          y = V::fma(V::load(tail), V::set(keep[h]), y);
        }
        V::store(tail, y);
        std::memcpy(to, tail, bytes);
      }
    }
  }
}

template <class V>
void q8_pv(const Q8ValueShape& shape, const std::uint8_t* weights, std::size_t ldw, const float* step,
           std::uint32_t n_heads, const std::int8_t* values, std::uint32_t n_kv, const float* keep, float* out,
           std::size_t ldo) {
  const std::uint32_t padded = shape.padded_width(), n_quads = (n_kv + 3) / 4;
  constexpr int n_registers = V::pv_tile.registers;
  constexpr std::uint32_t tile = V::lanes * n_registers;
  // The elements of a tile stay in the first-level cache while all heads go over them.
  for (std::uint32_t first = 0; first < padded; first += tile) {
    q8_for_heads<V::pv_tile.heads>(n_heads, [&]<int NH>(std::uint32_t head) {
      const std::uint8_t* w = weights + head * ldw;
      const float* kept = keep == nullptr ? nullptr : keep + head;
      float* y = out + head * ldo;
      if (first + tile <= padded) {
        q8_pv_tile<V, NH, n_registers>(shape, w, ldw, step + head, values, n_quads, first, kept, y, ldo);
      } else {
        q8_pv_tile<V, NH, 1>(shape, w, ldw, step + head, values, n_quads, first, kept, y, ldo);
      }
    });
  }
}

}  // namespace
}  // namespace r1::simd
