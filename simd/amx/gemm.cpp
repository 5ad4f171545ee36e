// Wide batches of t2 … t5 by AMX-INT8. A slab of K of two panels is unpacked once into tiles, and multiplied with all
// tokens: the tiles of 128 k of both panels stay in registers while a group of tokens passes. Sums leave the registers
// at each superchunk, where the scales of weights and activations change.
#include "simd/amx/gemm.h"

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd/amx/batch_tiles.h"
#include "simd/amx/unpack.h"
#include "simd/tile_gemm.h"

namespace r1::simd {
namespace {

// Measured (docs/performance.md, "AMX"): below it VNNI is as fast.
constexpr std::uint32_t amx_min_tokens = 16;

constexpr std::uint32_t product_k = 64;   // of one instruction
constexpr std::uint32_t most_tiles = 32;  // of tokens, that share an unpacked slab
// Tiles of tokens that pass while a superchunk's weights stay in registers: their totals, 16 KiB, stay in the
// first-level cache beside the weights.
constexpr std::uint32_t group_tiles = 8;
// Tiles of totals: pairs of panels meet a slab's tokens in turn, so that these come from the second-level cache.
constexpr std::uint32_t totals_tiles = 8 * most_tiles;

using WeightTile = std::int8_t[2][16][64];  // [k / 64][k / 4][16 rows, 4 k]: of a superchunk and panel
using Sums = std::int32_t[16][16];          // [token][row]
using Totals = float[16][2][16];            // [token][panel][row]: of a tile of tokens

struct alignas(64) Scratch {
  float token_scales[slab_superchunks][most_tiles][16];
  WeightTile weights[slab_superchunks][2];       // [superchunk][panel]
  float weight_scales[slab_superchunks][2][16];  // [superchunk][panel][row]
  Sums sums[2][2];                               // [of this product, of the one before][panel]
  Totals totals[totals_tiles];                   // [turn][tile]
};
static_assert(sizeof(Scratch) <= gemm_tile_bytes);

// Sums that wait to be added: totals += sums · weight_scales · token_scales.
struct Waiting {
  const Sums* sums;            // [panel]
  const float* weight_scales;  // [panel][16 rows]
  const float* token_scales;   // [16]
  Totals* totals;

  // Of tokens Begin … Begin + N − 1.
  template <int NP, int Begin, int N>
  void add() const {
#pragma GCC unroll 4
    for (int t = Begin; t < Begin + N; ++t) {
      const __m512 token_scale = _mm512_set1_ps(token_scales[t]);
#pragma GCC unroll 2
      for (int p = 0; p < NP; ++p) {
        float* total = (*totals)[t][p];
        const __m512 sum =
            _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums[p][t])), _mm512_load_ps(weight_scales + 16 * p));
        _mm512_store_ps(total, _mm512_fmadd_ps(sum, token_scale, _mm512_load_ps(total)));
      }
    }
  }
};

// sums[panel] = weights in registers 4 … 7 · tokens. Between products, which run elsewhere, the sums before are added.
template <int NP>
void multiply_tile(const std::int8_t* q, std::size_t q_stride, Sums* sums, const Waiting& before) {
  Tiles::stream<2>(q, q_stride);
  Tiles::zero<0>();
  Tiles::multiply<0, 2, 4>();
  before.add<NP, 0, 4>();
  if constexpr (NP > 1) {
    Tiles::zero<1>();
    Tiles::multiply<1, 2, 6>();
  }
  before.add<NP, 4, 4>();
  Tiles::stream<3>(q + product_k, q_stride);
  Tiles::multiply<0, 3, 5>();
  before.add<NP, 8, 4>();
  if constexpr (NP > 1) Tiles::multiply<1, 3, 7>();
  before.add<NP, 12, 4>();
  Tiles::store<0>(sums[0], 64);
  if constexpr (NP > 1) Tiles::store<1>(sums[1], 64);
}

// What a batch brings: rows of its activations from the call's first token on.
struct Batch {
  const std::int8_t* q;  // [token, q_stride], in the format's order
  const float* scale;    // [token, k_padded / 128]
  std::size_t k_padded, q_stride;
};

// totals += slab · tokens of a group's tiles; ahead(superchunk) is called before each superchunk.
template <int NP, class Ahead>
void multiply_group(Scratch& scratch, const Batch& batch, const TokenTiles& tiles, std::uint32_t first_tile,
                    std::uint32_t tile_begin, std::uint32_t tile_end, std::uint32_t superchunk,
                    std::uint32_t n_superchunks, Totals* totals, const Ahead& ahead) {
  // Nothing waits yet; and rows that no tile has stay zeros.
  std::memset(scratch.sums, 0, sizeof scratch.sums);
  Waiting before{scratch.sums[1], scratch.weight_scales[0][0], scratch.token_scales[0][tile_begin],
                 totals + tile_begin};
  std::uint32_t turn = 0;
  for (std::uint32_t s = 0; s < n_superchunks; ++s) {
    ahead(s);
    const WeightTile* weights = scratch.weights[s];
    Tiles::load<4>(weights[0][0], 64);
    Tiles::load<5>(weights[0][1], 64);
    if constexpr (NP > 1) {
      Tiles::load<6>(weights[1][0], 64);
      Tiles::load<7>(weights[1][1], 64);
    }
    for (std::uint32_t tile = tile_begin; tile < tile_end; ++tile) {
      Sums* sums = scratch.sums[turn];
      turn ^= 1;
      multiply_tile<NP>(
          batch.q + tiles.begin(first_tile + tile) * batch.q_stride + std::size_t{superchunk + s} * quant::superchunk_k,
          batch.q_stride, sums, before);
      before = {sums, scratch.weight_scales[s][0], scratch.token_scales[s][tile], totals + tile};
    }
  }
  before.add<NP, 0, 16>();
}

// The scales of a slab's tokens.
void collect_scales(Scratch& scratch, const Batch& batch, const TokenTiles& tiles, std::uint32_t tile_begin,
                    std::uint32_t tile_end, std::uint32_t superchunk, std::uint32_t n_superchunks) {
  const std::size_t row_superchunks = batch.k_padded / quant::superchunk_k;
  for (std::uint32_t tile = tile_begin; tile < tile_end; ++tile) {
    for (std::uint32_t t = 0; t < tiles.rows; ++t) {
      const float* scale = batch.scale + (tiles.begin(tile) + t) * row_superchunks + superchunk;
      for (std::uint32_t s = 0; s < n_superchunks; ++s) scratch.token_scales[s][tile - tile_begin][t] = scale[s];
    }
  }
}

// The totals of n_turns · NP panels → y, token by token: what is written of a token lies in one place.
template <int NP>
void store_totals(const PackedMatrix& w, const Scratch& scratch, const TokenTiles& tiles, std::uint32_t tile_begin,
                  std::uint32_t tile_end, std::uint32_t panel, std::uint32_t n_turns, float* y, std::size_t ldy) {
  const std::uint32_t n_tiles = tile_end - tile_begin;
  for (std::uint32_t tile = tile_begin; tile < tile_end; ++tile) {
    for (std::uint32_t t = tiles.first_new_row(tile); t < tiles.rows; ++t) {
      float* to = y + (tiles.begin(tile) + t) * ldy;
      for (std::uint32_t p = 0; p < n_turns * NP; ++p) {
        const std::uint32_t row = (panel + p) * quant::panel_rows, left = w.layout.rows - row;
        const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffffu : (1u << left) - 1);
        const __m512 total = _mm512_load_ps(scratch.totals[p / NP * n_tiles + tile - tile_begin][t][p % NP]);
        _mm512_mask_storeu_ps(to + row, mask, _mm512_mul_ps(total, _mm512_loadu_ps(w.row_scale() + row)));
      }
    }
  }
}

// Tiles [tile_begin, tile_end) of tokens, of which the totals have room, with n_turns · NP panels.
template <class Unpacked, int NP>
void multiply_panels(const PackedMatrix& w, const Unpacked& unpack, const Batch& batch, const TokenTiles& tiles,
                     std::uint32_t tile_begin, std::uint32_t tile_end, std::uint32_t panel, std::uint32_t n_turns,
                     float* y, std::size_t ldy, Scratch& scratch) {
  const std::uint32_t n_tiles = tile_end - tile_begin, n_groups = (n_tiles + group_tiles - 1) / group_tiles;
  std::memset(scratch.totals, 0, n_turns * n_tiles * sizeof(Totals));
  const std::uint32_t n_superchunks = w.layout.k_padded / quant::superchunk_k;
  const auto codes_of = [&](std::uint32_t p, std::uint32_t superchunk) {
    return reinterpret_cast<const std::uint8_t*>(w.panel(panel + p)) +
           std::size_t{superchunk} * Unpacked::superchunk_bytes;
  };
  for (std::uint32_t c = 0; c < n_superchunks; c += slab_superchunks) {
    const std::uint32_t n = smaller(slab_superchunks, n_superchunks - c);
    collect_scales(scratch, batch, tiles, tile_begin, tile_end, c, n);
    for (std::uint32_t i = 0; i < n_turns; ++i) {
      for (std::uint32_t p = 0; p < NP; ++p) {
        for (std::uint32_t s = 0; s < n; ++s)
          unpack.superchunk(codes_of(i * NP + p, c + s), {scratch.weights[s][p][0], scratch.weight_scales[s][p]});
      }
      // What is unpacked next: the slab's next panels, the next slab's first ones, or what lies behind these panels.
      const bool next_turn = i + 1 < n_turns, next_slab = !next_turn && c + slab_superchunks < n_superchunks;
      const std::uint32_t next_panel = next_slab ? 0 : (i + 1) * NP;
      const std::uint32_t next_c = next_turn ? c : next_slab ? c + slab_superchunks : 0;
      const std::size_t next_bytes =
          smaller(slab_superchunks, n_superchunks - next_c) * std::size_t{Unpacked::superchunk_bytes};
      for (std::uint32_t group = 0; group < n_groups; ++group) {
        const auto ahead = [&](std::uint32_t s) {
          for (std::uint32_t p = 0; p < NP; ++p)
            prefetch_part(codes_of(next_panel + p, next_c), next_bytes, group * n + s, n_groups * n);
        };
        multiply_group<NP>(scratch, batch, tiles, tile_begin, group * group_tiles,
                           smaller((group + 1) * group_tiles, n_tiles), c, n, scratch.totals + i * n_tiles, ahead);
      }
    }
  }
  store_totals<NP>(w, scratch, tiles, tile_begin, tile_end, panel, n_turns, y, ldy);
}

template <Format F>
void gemm(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
          std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy, std::byte* tile) {
  const Unpack<F> unpack(w);
  const std::int8_t* q = F == Format::t2 ? x.q_step2 : F == Format::t4 || F == Format::t4h ? x.q_step4 : x.q;
  const Batch batch{q + std::size_t{token_begin} * x.q_stride,
                    x.scale + std::size_t{token_begin} * (x.k_padded / quant::superchunk_k), x.k_padded, x.q_stride};
  auto& scratch = *reinterpret_cast<Scratch*>(tile);
  std::memset(scratch.token_scales, 0, sizeof scratch.token_scales);  // of rows that no tile has
  const TokenTiles tiles(n_tokens);
  const Tiles configured(tiles.rows, product_k, 4);
  for (std::uint32_t begin = 0; begin < tiles.n; begin += most_tiles) {
    const std::uint32_t end = smaller(begin + most_tiles, tiles.n);
    std::uint32_t panel = panel_begin;
    while (panel + 2 <= panel_end) {
      const std::uint32_t n_turns = smaller(totals_tiles / (end - begin), (panel_end - panel) / 2);
      multiply_panels<Unpack<F>, 2>(w, unpack, batch, tiles, begin, end, panel, n_turns, y, ldy, scratch);
      panel += 2 * n_turns;
    }
    if (panel < panel_end)
      multiply_panels<Unpack<F>, 1>(w, unpack, batch, tiles, begin, end, panel, 1, y, ldy, scratch);
  }
}

// Four sums, to hide the latency of each.
std::uint64_t peak_tiles(std::uint64_t n) {
  const Tiles configured(16, 64);
  Tiles::zero<0>();
  Tiles::zero<1>();
  Tiles::zero<2>();
  Tiles::zero<3>();
  Tiles::zero<4>();
  Tiles::zero<6>();
  for (std::uint64_t i = 0; i < n; ++i) {
    Tiles::multiply<0, 4, 6>();
    Tiles::multiply<1, 4, 6>();
    Tiles::multiply<2, 4, 6>();
    Tiles::multiply<3, 4, 6>();
  }
  return n * 4 * 16 * 16 * 64;
}

template <Format F>
void use(WideGemm* table) {
  table[static_cast<int>(F)] = {gemm<F>, amx_min_tokens};
}

}  // namespace

void use_amx_gemm(Kernels& kernels) {
  WideGemm* table = kernels.wide_gemm;
  use<Format::t2>(table);
  use<Format::t2_5>(table);
  use<Format::t3>(table);
  use<Format::t3_5>(table);
  use<Format::t4>(table);
  use<Format::t4h>(table);
  use<Format::t5>(table);
  kernels.peak_tiles = peak_tiles;
}

}  // namespace r1::simd
