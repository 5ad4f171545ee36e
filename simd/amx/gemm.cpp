// Wide batches of t2 … t5 by AMX-INT8. A slab of K of one or two panels is unpacked once into tiles, and multiplied
// with all tokens, two tiles of them at a time. Sums leave the tile registers at each superchunk: where the scales of
// weights and activations change.
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

constexpr std::uint32_t product_k = 64;           // of one instruction
constexpr std::uint32_t amx_totals_tokens = 512;  // that share an unpacked tile
// Pairs of panels that meet a slab's tokens in turn, so that these come from the second-level cache.
constexpr std::uint32_t turns = 8;

struct alignas(64) Scratch {
  std::int8_t weights[slab_superchunks][2][32][64];  // [superchunk][panel][k / 4][16 rows, 4 k]
  float scales[slab_superchunks][2][16];             // [superchunk][panel][row]
  std::int32_t sums[4][slab_superchunks][16][16];    // [2 · tile of tokens + panel][superchunk][token][row]
  float totals[turns][amx_totals_tokens][2][16];     // [turn][token][panel][row]
};
static_assert(sizeof(Scratch) <= gemm_tile_bytes);

// sums[…][superchunk] of NT tiles of tokens and NP panels for a slab.
template <int NP, int NT>
void multiply_slab(Scratch& scratch, std::uint32_t n_superchunks, const std::int8_t* const* q, std::size_t q_stride) {
  for (std::uint32_t s = 0; s < n_superchunks; ++s) {
    Tiles::zero<0>();
    if constexpr (NP > 1) Tiles::zero<1>();
    if constexpr (NT > 1) Tiles::zero<2>();
    if constexpr (NP > 1 && NT > 1) Tiles::zero<3>();
    const auto& weights = scratch.weights[s];
    for (std::uint32_t k = 0; k < quant::superchunk_k; k += product_k) {
      const std::size_t at = std::size_t{s} * quant::superchunk_k + k;
      Tiles::load<6>(weights[0][k / 4], 64);
      Tiles::load<4>(q[0] + at, q_stride);
      Tiles::multiply<0, 4, 6>();
      if constexpr (NP > 1) {
        Tiles::load<7>(weights[1][k / 4], 64);
        Tiles::multiply<1, 4, 7>();
      }
      if constexpr (NT > 1) {
        Tiles::load<5>(q[1] + at, q_stride);
        Tiles::multiply<2, 5, 6>();
      }
      if constexpr (NP > 1 && NT > 1) Tiles::multiply<3, 5, 7>();
    }
    Tiles::store<0>(scratch.sums[0][s], 64);
    if constexpr (NP > 1) Tiles::store<1>(scratch.sums[1][s], 64);
    if constexpr (NT > 1) Tiles::store<2>(scratch.sums[2][s], 64);
    if constexpr (NP > 1 && NT > 1) Tiles::store<3>(scratch.sums[3][s], 64);
  }
}

// Adds a slab's sums of one tile of tokens and one panel to totals[row]. activation_scale[row · ld]: of the first
// superchunk.
void add_sums(const Scratch& scratch, int tile, int panel, std::uint32_t n_superchunks, std::uint32_t row_begin,
              std::uint32_t row_end, const float* activation_scale, std::size_t ld, float (*totals)[2][16]) {
  const auto& sums = scratch.sums[2 * tile + panel];
  __m512 scales[slab_superchunks];
  for (std::uint32_t s = 0; s < slab_superchunks; ++s)
    scales[s] = s < n_superchunks ? _mm512_load_ps(scratch.scales[s][panel]) : _mm512_setzero_ps();
  for (std::uint32_t row = row_begin; row < row_end; ++row) {
    const float* scale = activation_scale + row * ld;
    float* at = totals[row - row_begin][panel];
    __m512 total = _mm512_load_ps(at);
    for (std::uint32_t s = 0; s < n_superchunks; ++s) {
      const __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums[s][row])), scales[s]);
      total = _mm512_fmadd_ps(sum, _mm512_set1_ps(scale[s]), total);
    }
    _mm512_store_ps(at, total);
  }
}

// What a batch brings: rows of its activations from the call's first token on.
struct Batch {
  const std::int8_t* q;  // [token, q_stride], in the format's order
  const float* scale;    // [token, k_padded / 128]
  std::size_t k_padded, q_stride;

  [[nodiscard]] std::size_t superchunks() const { return k_padded / quant::superchunk_k; }
};

// totals[token − first_token] += slab · tokens of NT tiles. superchunk: the slab's first one.
template <int NP, int NT>
void multiply_tiles(Scratch& scratch, const Batch& batch, const TokenTiles& tiles, std::uint32_t first_tile,
                    std::uint32_t first_token, std::uint32_t superchunk, std::uint32_t n_superchunks,
                    float (*totals)[2][16]) {
  const std::int8_t* q[NT];
  for (std::uint32_t t = 0; t < NT; ++t)
    q[t] = batch.q + tiles.begin(first_tile + t) * batch.q_stride + std::size_t{superchunk} * quant::superchunk_k;
  multiply_slab<NP, NT>(scratch, n_superchunks, q, batch.q_stride);
  for (int t = 0; t < NT; ++t) {
    const std::uint32_t tile = first_tile + static_cast<std::uint32_t>(t), begin = tiles.begin(tile);
    const std::uint32_t row = tiles.first_new_row(tile);
    const float* activation_scale = batch.scale + begin * batch.superchunks() + superchunk;
    for (int p = 0; p < NP; ++p) {
      add_sums(scratch, t, p, n_superchunks, row, tiles.rows, activation_scale, batch.superchunks(),
               totals + (begin + row - first_token));
    }
  }
}

// The totals of n_turns · NP panels → y, token by token: what is written of a token lies in one place.
template <int NP>
void store_totals(const PackedMatrix& w, const Scratch& scratch, std::uint32_t first_token, std::uint32_t end_token,
                  std::uint32_t panel, std::uint32_t n_turns, float* y, std::size_t ldy) {
  for (std::uint32_t token = first_token; token < end_token; ++token) {
    for (std::uint32_t p = 0; p < n_turns * NP; ++p) {
      const __m512 total = _mm512_load_ps(scratch.totals[p / NP][token - first_token][p % NP]);
      store_panel(w, panel + p, _mm512_mul_ps(total, panel_scale(w, panel + p)), y + token * ldy);
    }
  }
}

// Tiles [tile_begin, tile_end) of tokens, of which the totals have room, with n_turns · NP panels.
template <class Unpacked, int NP>
void multiply_panels(const PackedMatrix& w, const Unpacked& unpack, const Batch& batch, const TokenTiles& tiles,
                     std::uint32_t tile_begin, std::uint32_t tile_end, std::uint32_t panel, std::uint32_t n_turns,
                     float* y, std::size_t ldy, Scratch& scratch) {
  const std::uint32_t first_token = tile_begin * tiles.rows, end_token = smaller(tile_end * tiles.rows, tiles.n_tokens);
  for (std::uint32_t i = 0; i < n_turns; ++i)
    std::memset(scratch.totals[i], 0, (end_token - first_token) * sizeof scratch.totals[i][0]);
  const std::uint32_t n_superchunks = w.layout.k_padded / quant::superchunk_k;
  const auto codes_of = [&](std::uint32_t p, std::uint32_t superchunk) {
    return reinterpret_cast<const std::uint8_t*>(w.panel(panel + p)) +
           std::size_t{superchunk} * Unpacked::superchunk_bytes;
  };
  for (std::uint32_t c = 0; c < n_superchunks; c += slab_superchunks) {
    const std::uint32_t n = smaller(slab_superchunks, n_superchunks - c);
    for (std::uint32_t i = 0; i < n_turns; ++i) {
      for (std::uint32_t p = 0; p < NP; ++p) {
        for (std::uint32_t s = 0; s < n; ++s)
          unpack.superchunk(codes_of(i * NP + p, c + s), {scratch.weights[s][p], scratch.scales[s][p]});
      }
      // What is unpacked next: the slab's next panels, the next slab's first ones, or what lies behind these panels.
      const bool next_turn = i + 1 < n_turns, next_slab = !next_turn && c + slab_superchunks < n_superchunks;
      const std::uint32_t next_panel = next_slab ? 0 : (i + 1) * NP;
      const std::uint32_t next_c = next_turn ? c : next_slab ? c + slab_superchunks : 0;
      const std::size_t next_bytes =
          smaller(slab_superchunks, n_superchunks - next_c) * std::size_t{Unpacked::superchunk_bytes};
      for (std::uint32_t tile = tile_begin; tile < tile_end; tile += 2) {
        for (std::uint32_t p = 0; p < NP; ++p) {
          prefetch_part(codes_of(next_panel + p, next_c), next_bytes, (tile - tile_begin) / 2,
                        (tile_end - tile_begin + 1) / 2);
        }
        const auto multiply = tile + 1 < tile_end ? multiply_tiles<NP, 2> : multiply_tiles<NP, 1>;
        multiply(scratch, batch, tiles, tile, first_token, c, n, scratch.totals[i]);
      }
    }
  }
  store_totals<NP>(w, scratch, first_token, end_token, panel, n_turns, y, ldy);
}

template <Format F>
void gemm(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
          std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy, std::byte* tile) {
  const Unpack<F> unpack(w);
  const std::int8_t* q = F == Format::t2 ? x.q_step2 : F == Format::t4 || F == Format::t4h ? x.q_step4 : x.q;
  const Batch batch{q + std::size_t{token_begin} * x.q_stride,
                    x.scale + std::size_t{token_begin} * (x.k_padded / quant::superchunk_k), x.k_padded, x.q_stride};
  auto& scratch = *reinterpret_cast<Scratch*>(tile);
  const TokenTiles tiles(n_tokens);
  const Tiles configured(tiles.rows, product_k);
  constexpr std::uint32_t chunk = amx_totals_tokens / 16;  // tiles
  for (std::uint32_t begin = 0; begin < tiles.n; begin += chunk) {
    const std::uint32_t end = smaller(begin + chunk, tiles.n);
    std::uint32_t panel = panel_begin;
    while (panel + 2 <= panel_end) {
      const std::uint32_t n_turns = smaller(turns, (panel_end - panel) / 2);
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
