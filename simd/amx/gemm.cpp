// Wide batches of the packed formats by AMX-INT8. A slab of K of one or two panels is unpacked once into tiles, and
// multiplied with all tokens, two tiles of them at a time. Sums leave the tile registers at each step of K: where the
// scales of weights or activations change.
#include "simd/amx/gemm.h"

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#ifdef R1_EMULATED_TILES
#include R1_EMULATED_TILES
#else
#include "simd/amx/tiles.h"
#endif
#include "simd/amx/unpack.h"
#include "simd/tile_gemm.h"

namespace r1::simd {
namespace {

// Where a wide batch begins: an estimate (docs/performance.md, "AMX").
constexpr std::uint32_t amx_min_tokens = 16;

constexpr int group_steps = 4;                    // of K, between two additions to the totals
constexpr std::uint32_t amx_totals_tokens = 512;  // that share an unpacked tile

struct alignas(64) Scratch {
  std::int8_t weights[slab_superchunks][2][32][64];  // [superchunk][panel][k / 4][16 rows, 4 k]
  float scales[slab_superchunks][2][4][16];          // [superchunk][panel][block][row]
  std::int32_t sums[4][group_steps][16][16];         // [2 · tile of tokens + panel][step][token][row]
  float totals[amx_totals_tokens][2][16];            // [token][panel][row]
};
static_assert(sizeof(Scratch) <= gemm_tile_bytes);

template <bool Folds>
struct Step {
  static constexpr std::uint32_t k = Folds ? quant::superchunk_k : quant::block_k;
  static constexpr std::uint32_t product_k = Folds ? 64 : 32;  // of one instruction
};

// Tiles of tokens that are nearly equal in size. The last one may begin among the tokens of the one before, whose sums
// it does not add again: so one configuration serves the call, and nothing behind the batch is read.
struct TokenTiles {
  std::uint32_t n_tokens, n, rows;

  explicit TokenTiles(std::uint32_t n_tokens_)
      : n_tokens(n_tokens_), n((n_tokens + 15) / 16), rows((n_tokens + n - 1) / n) {}

  [[nodiscard]] std::uint32_t begin(std::uint32_t tile) const { return smaller(tile * rows, n_tokens - rows); }
  [[nodiscard]] std::uint32_t first_new_row(std::uint32_t tile) const { return tile * rows - begin(tile); }
};

// sums[…][step] of NT tiles of tokens and NP panels, for steps of K from k_begin of the slab on.
template <bool Folds, int NP, int NT>
void multiply_steps(Scratch& scratch, std::uint32_t k_begin, std::uint32_t n_steps, const std::int8_t* const* q,
                    std::size_t k_padded) {
  for (std::uint32_t step = 0; step < n_steps; ++step) {
    const std::uint32_t begin = k_begin + step * Step<Folds>::k;
    Tiles::zero<0>();
    if constexpr (NP > 1) Tiles::zero<1>();
    if constexpr (NT > 1) Tiles::zero<2>();
    if constexpr (NP > 1 && NT > 1) Tiles::zero<3>();
    for (std::uint32_t k = begin; k < begin + Step<Folds>::k; k += Step<Folds>::product_k) {
      const auto& weights = scratch.weights[k / quant::superchunk_k];
      const std::uint32_t quad = k % quant::superchunk_k / 4;
      Tiles::load<6>(weights[0][quad], 64);
      Tiles::load<4>(q[0] + k, k_padded);
      Tiles::multiply<0, 4, 6>();
      if constexpr (NP > 1) {
        Tiles::load<7>(weights[1][quad], 64);
        Tiles::multiply<1, 4, 7>();
      }
      if constexpr (NT > 1) {
        Tiles::load<5>(q[1] + k, k_padded);
        Tiles::multiply<2, 5, 6>();
      }
      if constexpr (NP > 1 && NT > 1) Tiles::multiply<3, 5, 7>();
    }
    Tiles::store<0>(scratch.sums[0][step], 64);
    if constexpr (NP > 1) Tiles::store<1>(scratch.sums[1][step], 64);
    if constexpr (NT > 1) Tiles::store<2>(scratch.sums[2][step], 64);
    if constexpr (NP > 1 && NT > 1) Tiles::store<3>(scratch.sums[3][step], 64);
  }
}

// Adds the steps' sums of one tile of tokens and one panel to totals[row]. activation_scale[row · ld]: of the first
// superchunk.
template <bool Folds>
void add_steps(const Scratch& scratch, int tile, int panel, std::uint32_t superchunk, std::uint32_t n_steps,
               std::uint32_t row_begin, std::uint32_t row_end, const float* activation_scale, std::size_t ld,
               float (*totals)[2][16]) {
  const auto& sums = scratch.sums[2 * tile + panel];
  __m512 scales[group_steps];
  for (std::uint32_t step = 0; step < group_steps; ++step) {
    const bool used = step < n_steps;
    scales[step] = !used   ? _mm512_setzero_ps()
                   : Folds ? _mm512_load_ps(scratch.scales[superchunk + step][panel][0])
                           : _mm512_load_ps(scratch.scales[superchunk][panel][step]);
  }
  for (std::uint32_t row = row_begin; row < row_end; ++row) {
    const float* scale = activation_scale + row * ld;
    float* at = totals[row - row_begin][panel];
    __m512 total = _mm512_load_ps(at);
    if constexpr (Folds) {
      for (std::uint32_t step = 0; step < n_steps; ++step) {
        const __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums[step][row])), scales[step]);
        total = _mm512_fmadd_ps(sum, _mm512_set1_ps(scale[step]), total);
      }
    } else {
      __m512 sum = _mm512_setzero_ps();
#pragma GCC unroll 4
      for (int step = 0; step < group_steps; ++step)
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums[step][row])), scales[step], sum);
      total = _mm512_fmadd_ps(sum, _mm512_set1_ps(*scale), total);
    }
    _mm512_store_ps(at, total);
  }
}

// What a batch brings: rows of its activations from the call's first token on.
struct Batch {
  const std::int8_t* q;  // [token, k_padded], in the format's order
  const float* scale;    // [token, k_padded / 128]
  std::size_t k_padded;

  [[nodiscard]] std::size_t superchunks() const { return k_padded / quant::superchunk_k; }
};

// totals[token − first_token] += slab · tokens of NT tiles. superchunk: the slab's first one.
template <bool Folds, int NP, int NT>
void multiply_tiles(Scratch& scratch, const Batch& batch, const TokenTiles& tiles, std::uint32_t first_tile,
                    std::uint32_t first_token, std::uint32_t superchunk, std::uint32_t n_superchunks) {
  const std::int8_t* q[NT];
  for (std::uint32_t t = 0; t < NT; ++t)
    q[t] = batch.q + tiles.begin(first_tile + t) * batch.k_padded + std::size_t{superchunk} * quant::superchunk_k;
  // Folded, a group is the slab; else it is one superchunk of four blocks.
  const std::uint32_t group_superchunks = Folds ? n_superchunks : 1, n_steps = Folds ? n_superchunks : 4;
  for (std::uint32_t s = 0; s < n_superchunks; s += group_superchunks) {
    multiply_steps<Folds, NP, NT>(scratch, s * quant::superchunk_k, n_steps, q, batch.k_padded);
    for (int t = 0; t < NT; ++t) {
      const std::uint32_t tile = first_tile + static_cast<std::uint32_t>(t), begin = tiles.begin(tile);
      const std::uint32_t row = tiles.first_new_row(tile);
      const float* activation_scale = batch.scale + begin * batch.superchunks() + superchunk + s;
      for (int p = 0; p < NP; ++p) {
        add_steps<Folds>(scratch, t, p, s, n_steps, row, tiles.rows, activation_scale, batch.superchunks(),
                         scratch.totals + (begin + row - first_token));
      }
    }
  }
}

// Part `i` of `n` of a slab's codes, so that memory answers while products are computed.
inline void prefetch_part(const std::uint8_t* codes, std::size_t bytes, std::uint32_t i, std::uint32_t n) {
  const std::size_t lines = (bytes + 63) / 64;
  for (std::size_t line = lines * i / n; line < lines * (i + 1) / n; ++line)
    _mm_prefetch(reinterpret_cast<const char*>(codes + 64 * line), _MM_HINT_T1);
}

// NP panels with tiles [tile_begin, tile_end) of tokens, of which the totals have room.
template <class Unpacked, int NP>
void multiply_panels(const PackedMatrix& w, const Unpacked& unpack, const Batch& batch, const TokenTiles& tiles,
                     std::uint32_t tile_begin, std::uint32_t tile_end, std::uint32_t panel, float* y, std::size_t ldy,
                     Scratch& scratch) {
  constexpr bool folds = Unpacked::folds;
  const std::uint32_t first_token = tile_begin * tiles.rows, end_token = smaller(tile_end * tiles.rows, tiles.n_tokens);
  std::memset(scratch.totals, 0, (end_token - first_token) * sizeof scratch.totals[0]);
  const std::uint32_t n_superchunks = w.layout.k_padded / quant::superchunk_k;
  for (std::uint32_t c = 0; c < n_superchunks; c += slab_superchunks) {
    const std::uint32_t n = smaller(slab_superchunks, n_superchunks - c);
    for (std::uint32_t p = 0; p < NP; ++p) {
      const auto* codes = reinterpret_cast<const std::uint8_t*>(w.panel(panel + p));
      for (std::uint32_t s = 0; s < n; ++s)
        unpack.superchunk(codes + std::size_t{c + s} * Unpacked::superchunk_bytes,
                          {scratch.weights[s][p], scratch.scales[s][p]});
    }
    for (std::uint32_t tile = tile_begin; tile < tile_end; tile += 2) {
      // What is unpacked next: these panels' next slab, or the next panels' first one.
      const bool last = c + slab_superchunks >= n_superchunks;
      for (std::uint32_t p = 0; p < NP; ++p) {
        const std::byte* next = w.panel(panel + (last ? p + NP : p));
        if (!last) next += std::size_t{c + slab_superchunks} * Unpacked::superchunk_bytes;
        prefetch_part(reinterpret_cast<const std::uint8_t*>(next), n * std::size_t{Unpacked::superchunk_bytes},
                      (tile - tile_begin) / 2, (tile_end - tile_begin + 1) / 2);
      }
      if (tile + 1 < tile_end)
        multiply_tiles<folds, NP, 2>(scratch, batch, tiles, tile, first_token, c, n);
      else
        multiply_tiles<folds, NP, 1>(scratch, batch, tiles, tile, first_token, c, n);
    }
  }
  for (std::uint32_t p = 0; p < NP; ++p) {
    const std::uint32_t row = (panel + p) * quant::panel_rows, left = w.layout.rows - row;
    const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffffu : (1u << left) - 1);
    const __m512 row_scale = _mm512_loadu_ps(w.row_scale() + row);
    for (std::uint32_t token = first_token; token < end_token; ++token) {
      const __m512 total = _mm512_load_ps(scratch.totals[token - first_token][p]);
      _mm512_mask_storeu_ps(y + token * ldy + row, mask, _mm512_mul_ps(total, row_scale));
    }
  }
}

template <Format F>
void gemm(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
          std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy, std::byte* tile) {
  const Unpack<F> unpack(w);
  const std::int8_t* q = F == Format::t2 ? x.q_step2 : F == Format::t4 || F == Format::t4h ? x.q_step4 : x.q;
  const Batch batch{q + std::size_t{token_begin} * x.k_padded,
                    x.scale + std::size_t{token_begin} * (x.k_padded / quant::superchunk_k), x.k_padded};
  auto& scratch = *reinterpret_cast<Scratch*>(tile);
  const TokenTiles tiles(n_tokens);
  const Tiles configured(tiles.rows, Step<Unpack<F>::folds>::product_k);
  constexpr std::uint32_t chunk = amx_totals_tokens / 16;  // tiles
  for (std::uint32_t begin = 0; begin < tiles.n; begin += chunk) {
    const std::uint32_t end = smaller(begin + chunk, tiles.n);
    std::uint32_t panel = panel_begin;
    for (; panel + 2 <= panel_end; panel += 2)
      multiply_panels<Unpack<F>, 2>(w, unpack, batch, tiles, begin, end, panel, y, ldy, scratch);
    for (; panel < panel_end; ++panel)
      multiply_panels<Unpack<F>, 1>(w, unpack, batch, tiles, begin, end, panel, y, ldy, scratch);
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
  use<Format::nl6>(table);
  use<Format::w8>(table);
  kernels.peak_tiles = peak_tiles;
}

}  // namespace r1::simd
