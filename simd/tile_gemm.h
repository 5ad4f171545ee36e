// Internal to simd/: batches of any size. A slab of K of one or two panels is unpacked to bytes once, into a tile that
// stays in the first-level cache, and multiplied with all tokens, a few at a time in registers. Internal linkage, as in
// trellis_shape.h.
//
// `V` is a register width with its dot product; a column is a register's rows. `Unpack` turns codes into tiles:
//   weights: codebook + `offset` as unsigned bytes, 4 k of each row side by side, as a dot product of four bytes wants
//            them: [block][quad][column][row][4 k]
//   scales:  f32 [block][column][row]
// Where V gives Column, weights are what V::load_column reads, two registers, and sums begin with the tile's starts.
// A sum over K goes on from slab to slab in `totals`, in the order of kernels.h whatever the cut.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "simd/trellis_shape.h"

namespace r1::simd {
namespace {

inline std::uint32_t smaller(std::uint32_t a, std::uint32_t b) {
  return a < b ? a : b;
}

constexpr std::uint32_t slab_superchunks = 4;  // two panels: 18 KiB, and first-level caches have 32 or 48
constexpr std::uint32_t slab_blocks = 4 * slab_superchunks;
// A slab's tokens meet several tiles in turn, so that their bytes come from the second-level cache: a batch of R1's
// widest rows does not fit it, and each tile by itself would fetch it from the third (2,048 tokens of k = 16,384
// reached 64 % of what registers allow, where 128 tokens reach 76).
constexpr std::uint32_t turn_tiles = 4;
constexpr std::uint32_t totals_tokens = 216;  // whose totals fit the scratch

template <class V>
concept HasColumns = requires {
  typename V::Column;
};

template <class V>
[[gnu::always_inline]] inline auto load_column(const std::uint8_t* p) {
  if constexpr (HasColumns<V>) {
    return V::load_column(p);
  } else {
    return V::load(p);
  }
}

template <class V, int NC>
struct alignas(64) Tile {
  static constexpr int column_bytes = 4 * V::rows * (HasColumns<V> ? 2 : 1);
  std::uint8_t weights[slab_blocks][8][NC][column_bytes];
  float scales[slab_blocks][NC][V::rows];
  std::int32_t starts[HasColumns<V> ? slab_blocks : 1][NC][V::rows];
  float totals[turn_tiles][totals_tokens][NC][V::rows];
};

// What a batch's tokens bring to a slab.
struct SlabInputs {
  const std::int8_t* q;           // [token, q_stride], in the format's order
  const float* scale;             // [token, k_padded / 128]
  const std::int32_t* block_sum;  // [token, k_padded / 32]
  std::size_t k_padded, q_stride;
};

// The codes that are unpacked next come nearer while products run, some lines per block: asked for at once they would
// fill the core's miss buffers and stop it. T0, since Zen 4 makes little of T1: 16 tokens of t3 from memory reach 60 %
// of what registers allow with T1 in one go, 65 % with T0, 68 % with T0 spread, and 69 % from the cache.
template <int NP>
struct Ahead {
  const std::byte* codes = nullptr;  // of the first panel
  std::size_t panel_bytes = 0;       // from panel to panel
  std::size_t bytes = 0;             // left of each panel's
  std::size_t step = 0;              // of each panel's per block; a multiple of 64

  void take_step() {
    const std::size_t n = bytes < step ? bytes : step;
    for (std::size_t at = 0; at < n; at += 64) {
      for (std::size_t p = 0; p < NP; ++p)
        _mm_prefetch(reinterpret_cast<const char*>(codes + p * panel_bytes + at), _MM_HINT_T0);
    }
    codes += n;
    bytes -= n;
  }
};

// totals[t] += tile · token t. Per 32 k a column and token take eight dot products, a conversion and an FMA.
template <class V, int Offset, int NC, int NT>
[[gnu::noinline]] void multiply_slab(Tile<V, NC>& tile, std::uint32_t n_superchunks, const SlabInputs& in,
                                     float (*totals)[NC][V::rows], Ahead<NC / V::parts>& ahead) {
  using Bytes = typename V::Bytes;
  using Floats = typename V::Floats;
  std::int32_t starts[NT][slab_blocks];
  const std::int8_t* q[NT];
  for (std::size_t t = 0; t < NT; ++t) {
    q[t] = in.q + t * in.q_stride;
    const std::int32_t* sums = in.block_sum + t * (in.k_padded / quant::block_k);
    for (std::uint32_t b = 0; b < 4 * n_superchunks; ++b) starts[t][b] = -Offset * sums[b];
  }
  for (std::uint32_t s = 0; s < n_superchunks; ++s) {
    Floats acc[NT][NC];
#pragma GCC unroll 8
    for (int t = 0; t < NT; ++t) {
#pragma GCC unroll 4
      for (int c = 0; c < NC; ++c) acc[t][c] = V::zero_floats();
    }
    for (std::uint32_t b = 4 * s; b < 4 * s + 4; ++b) {
      ahead.take_step();
      Bytes dot[NT][NC];
#pragma GCC unroll 8
      for (int t = 0; t < NT; ++t) {
        const Bytes start = V::broadcast4(starts[t][b]);
#pragma GCC unroll 4
        for (int c = 0; c < NC; ++c) {
          if constexpr (HasColumns<V>) {
            dot[t][c] = V::load(tile.starts[b][c]);
          } else {
            dot[t][c] = start;
          }
        }
      }
#pragma GCC unroll 8
      for (int quad = 0; quad < 8; ++quad) {
        decltype(load_column<V>(nullptr)) w[NC];
#pragma GCC unroll 4
        for (int c = 0; c < NC; ++c) w[c] = load_column<V>(tile.weights[b][quad][c]);
#pragma GCC unroll 8
        for (int t = 0; t < NT; ++t) {
          std::int32_t four = 0;
          std::memcpy(&four, q[t] + b * quant::block_k + 4 * quad, sizeof four);
          const Bytes activations = V::broadcast4(four);
#pragma GCC unroll 4
          for (int c = 0; c < NC; ++c) dot[t][c] = V::dot(dot[t][c], w[c], activations);
        }
      }
#pragma GCC unroll 4
      for (int c = 0; c < NC; ++c) {
        const Floats scale = V::load_floats(tile.scales[b][c]);
#pragma GCC unroll 8
        for (int t = 0; t < NT; ++t) acc[t][c] = V::fma(V::to_floats(dot[t][c]), scale, acc[t][c]);
      }
    }
#pragma GCC unroll 8
    for (int t = 0; t < NT; ++t) {
      const Floats scale = V::broadcast_float(in.scale[static_cast<std::size_t>(t) * (in.k_padded / 128) + s]);
#pragma GCC unroll 4
      for (int c = 0; c < NC; ++c) V::store(totals[t][c], V::fma(acc[t][c], scale, V::load_floats(totals[t][c])));
    }
  }
}

// The same for 1 … V::tile_tokens tokens.
template <class V, int Offset, int NC, int NT = V::tile_tokens>
void multiply_tokens(Tile<V, NC>& tile, std::uint32_t n_superchunks, std::uint32_t n_tokens, const SlabInputs& in,
                     float (*totals)[NC][V::rows], Ahead<NC / V::parts>& ahead) {
  if (n_tokens == NT) return multiply_slab<V, Offset, NC, NT>(tile, n_superchunks, in, totals, ahead);
  if constexpr (NT > 1) multiply_tokens<V, Offset, NC, NT - 1>(tile, n_superchunks, n_tokens, in, totals, ahead);
}

// The tile's totals for NP panels → y.
template <class V, int NP>
void store_totals(const PackedMatrix& w, const float (*totals)[NP * V::parts][V::rows], std::uint32_t n_tokens,
                  std::uint32_t panel, float* y, std::size_t ldy) {
  for (int p = 0; p < NP; ++p) {
    const std::uint32_t row = (panel + static_cast<std::uint32_t>(p)) * quant::panel_rows, left = w.layout.rows - row;
    const std::size_t n_bytes = smaller(left, quant::panel_rows) * sizeof(float);
    for (std::uint32_t t = 0; t < n_tokens; ++t) {
      alignas(64) float rows[quant::panel_rows];
      for (int part = 0; part < V::parts; ++part) {
        V::store(rows + V::rows * part, V::multiply(V::load_floats(totals[t][p * V::parts + part]),
                                                    V::load_floats(w.row_scale() + row + V::rows * part)));
      }
      std::memcpy(y + t * ldy + row, rows, n_bytes);
    }
  }
}

// 1 … turn_tiles tiles of NP panels with up to totals_tokens tokens.
template <class Unpack, class V, int NP>
void multiply_panels(const PackedMatrix& w, const Unpack& unpack, const SlabInputs& in, std::uint32_t n_tokens,
                     std::uint32_t panel, std::uint32_t n_tiles, float* y, std::size_t ldy, std::byte* scratch) {
  constexpr int n_columns = NP * V::parts;
  static_assert(sizeof(Tile<V, n_columns>) <= gemm_tile_bytes);
  auto& tile = *reinterpret_cast<Tile<V, n_columns>*>(scratch);
  for (std::uint32_t i = 0; i < n_tiles; ++i) std::memset(tile.totals[i], 0, n_tokens * sizeof tile.totals[i][0]);
  const std::uint32_t n_superchunks = w.layout.k_padded / quant::superchunk_k;
  const std::uint32_t n_groups = (n_tokens + V::tile_tokens - 1) / V::tile_tokens;
  const auto codes_of = [&](std::uint32_t i, std::uint32_t c) {
    return w.panel(panel + i * NP) + std::size_t{c} * Unpack::superchunk_bytes;
  };
  for (std::uint32_t c = 0; c < n_superchunks; c += slab_superchunks) {
    const std::uint32_t n = smaller(slab_superchunks, n_superchunks - c);
    for (std::uint32_t i = 0; i < n_tiles; ++i) {
      for (int p = 0; p < NP; ++p) {
        const auto* codes =
            reinterpret_cast<const std::uint8_t*>(codes_of(i, c) + static_cast<std::size_t>(p) * w.layout.panel_bytes);
        for (std::uint32_t s = 0; s < n; ++s) {
          const auto* superchunk = codes + std::size_t{s} * Unpack::superchunk_bytes;
          auto* weights = &tile.weights[4 * s][0][p * V::parts];
          auto* scales = &tile.scales[4 * s][p * V::parts];
          if constexpr (HasColumns<V>) {
            unpack.template superchunk<n_columns>(superchunk, weights, scales, &tile.starts[4 * s][p * V::parts]);
          } else {
            unpack.template superchunk<n_columns>(superchunk, weights, scales);
          }
        }
      }
      // The slab's next tile, the next slab's first one, or what lies behind these panels.
      const bool next_tile = i + 1 < n_tiles, next_slab = !next_tile && c + slab_superchunks < n_superchunks;
      const std::uint32_t next = next_tile ? c : next_slab ? c + slab_superchunks : 0;
      const std::size_t next_bytes =
          smaller(slab_superchunks, n_superchunks - next) * std::size_t{Unpack::superchunk_bytes};
      const std::size_t lines = (next_bytes + 63) / 64, n_steps = std::size_t{n_groups} * 4 * n;
      Ahead<NP> ahead{codes_of(next_slab ? 0 : i + 1, next), w.layout.panel_bytes, next_bytes,
                      (lines + n_steps - 1) / n_steps * 64};
      // Groups of tokens of nearly the same size: a remainder of one would leave most registers idle.
      for (std::uint32_t g = 0, t = 0; g < n_groups; ++g) {
        const std::uint32_t n_group = (n_tokens - t + n_groups - g - 1) / (n_groups - g);
        const SlabInputs slab{in.q + t * in.q_stride + std::size_t{c} * quant::superchunk_k,
                              in.scale + t * (in.k_padded / quant::superchunk_k) + c,
                              in.block_sum + t * (in.k_padded / quant::block_k) + std::size_t{c} * 4, in.k_padded,
                              in.q_stride};
        multiply_tokens<V, Unpack::offset, n_columns>(tile, n, n_group, slab, tile.totals[i] + t, ahead);
        t += n_group;
      }
    }
  }
  for (std::uint32_t i = 0; i < n_tiles; ++i) store_totals<V, NP>(w, tile.totals[i], n_tokens, panel + i * NP, y, ldy);
}

template <quant::Format F, class Unpack, class V>
void tile_gemm(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
               std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy, std::byte* scratch) {
  const Unpack unpack(w);
  const std::int8_t* q = F == quant::Format::t2                              ? x.q_step2
                         : F == quant::Format::t4 || F == quant::Format::t4h ? x.q_step4
                                                                             : x.q;
  const std::uint32_t n_parts = (n_tokens + totals_tokens - 1) / totals_tokens;
  for (std::uint32_t part = 0, t = 0; part < n_parts; ++part) {
    const std::size_t token = token_begin + t;
    const std::uint32_t n = (n_tokens - t) / (n_parts - part);
    const SlabInputs in{q + token * x.q_stride, x.scale + token * (x.k_padded / quant::superchunk_k),
                        x.block_sum + token * (x.k_padded / quant::block_k), x.k_padded, x.q_stride};
    std::uint32_t panel = panel_begin;
    while (panel < panel_end) {
      const std::uint32_t n_tiles = smaller(turn_tiles, (panel_end - panel) / V::tile_panels);
      if (n_tiles > 0) {
        multiply_panels<Unpack, V, V::tile_panels>(w, unpack, in, n, panel, n_tiles, y + t * ldy, ldy, scratch);
        panel += n_tiles * V::tile_panels;
      } else {
        multiply_panels<Unpack, V, 1>(w, unpack, in, n, panel++, 1, y + t * ldy, ldy, scratch);
      }
    }
    t += n;
  }
}

// UnpackOf<F> for every trellis format.
template <template <quant::Format> class UnpackOf, class V>
void use_tile_gemm(GemmFn* table) {
  using quant::Format;
  table[static_cast<int>(Format::t2)] = tile_gemm<Format::t2, UnpackOf<Format::t2>, V>;
  table[static_cast<int>(Format::t2_5)] = tile_gemm<Format::t2_5, UnpackOf<Format::t2_5>, V>;
  table[static_cast<int>(Format::t3)] = tile_gemm<Format::t3, UnpackOf<Format::t3>, V>;
  table[static_cast<int>(Format::t3_5)] = tile_gemm<Format::t3_5, UnpackOf<Format::t3_5>, V>;
  table[static_cast<int>(Format::t4)] = tile_gemm<Format::t4, UnpackOf<Format::t4>, V>;
  table[static_cast<int>(Format::t4h)] = tile_gemm<Format::t4h, UnpackOf<Format::t4h>, V>;
  table[static_cast<int>(Format::t5)] = tile_gemm<Format::t5, UnpackOf<Format::t5>, V>;
  table[static_cast<int>(Format::nl6)] = tile_gemm<Format::nl6, UnpackOf<Format::nl6>, V>;
}

}  // namespace
}  // namespace r1::simd
