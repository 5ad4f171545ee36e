// Wide batches of nl6 and w8 by AMX-BF16. A slab of K of some panels is unpacked once into tiles of weights,
// and multiplied with all tokens, two tiles of them and two panels at a time. Sums stay in a tile register for the
// whole slab.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd/amx/gemm.h"
#include "simd/avx2/gemv.h"

#include "simd/amx/batch_tiles.h"
#include "simd/amx/bf16_unpack.h"
#include "simd/tile_gemm.h"

namespace r1::simd {
namespace {

// Measured (docs/performance.md, "AMX"): below it VNNI is as fast.
constexpr std::uint32_t bf16_min_tokens = 32;

constexpr std::uint32_t wide_slab = 2;  // superchunks
// Whose weights are unpacked at a time: 32 KiB, and the first-level cache has 48.
constexpr std::uint32_t slab_panels = 4;
// Panels that meet a slab's tokens in turn, so that these come from the second-level cache.
constexpr std::uint32_t turn_panels = 16;
constexpr std::uint32_t totals_tiles = 32;  // of tokens, that share an unpacked slab

constexpr std::uint32_t product_k = Activations::bf16_step_k;
constexpr std::uint32_t superchunk_products = quant::superchunk_k / product_k;

struct alignas(64) Scratch {
  WeightTile weights[slab_panels][wide_slab * superchunk_products];
  float totals[totals_tiles][turn_panels][16][16];  // [tile of tokens][panel][token][row]
};
static_assert(sizeof(Scratch) <= gemm_tile_bytes);

struct Batch {
  const std::uint16_t* x;  // [k_padded / 32, n_tokens, 32] from the call's first token on
  std::size_t step_bytes;  // from 32 k to 32 k
};

// What a slab's unpacked panels are multiplied with.
struct SlabProduct {
  const WeightTile (*weights)[wide_slab * superchunk_products];  // [panel][product]
  const char* tokens[2];                                         // tiles of them at the slab's first 32 k
  std::size_t step_bytes;                                        // from 32 k to 32 k
  std::uint32_t n_products;
  bool first;                  // of the slabs
  float (*totals[2])[16][16];  // [tile][panel]
};

// totals += slab · tokens of two tiles for NP panels from `panel` on.
template <int NP>
void multiply_two_tiles(const SlabProduct& in, std::uint32_t panel) {
  const auto start = [&]<int Sums>(int tile, std::uint32_t p) {
    if (in.first)
      Tiles::zero<Sums>();
    else
      Tiles::load<Sums>(in.totals[tile][panel + p], 64);
  };
  start.template operator()<0>(0, 0);
  start.template operator()<2>(1, 0);
  if constexpr (NP > 1) {
    start.template operator()<1>(0, 1);
    start.template operator()<3>(1, 1);
  }
  const WeightTile* weights[2] = {in.weights[panel], in.weights[panel + NP - 1]};
  for (std::uint32_t i = 0; i < in.n_products; ++i) {
    Tiles::load<6>(weights[0][i], 64);
    Tiles::stream<4>(in.tokens[0] + i * in.step_bytes, 64);
    Tiles::multiply_bf16<0, 4, 6>();
    if constexpr (NP > 1) {
      Tiles::load<7>(weights[1][i], 64);
      Tiles::multiply_bf16<1, 4, 7>();
    }
    Tiles::stream<5>(in.tokens[1] + i * in.step_bytes, 64);
    Tiles::multiply_bf16<2, 5, 6>();
    if constexpr (NP > 1) Tiles::multiply_bf16<3, 5, 7>();
  }
  Tiles::store<0>(in.totals[0][panel], 64);
  Tiles::store<2>(in.totals[1][panel], 64);
  if constexpr (NP > 1) {
    Tiles::store<1>(in.totals[0][panel + 1], 64);
    Tiles::store<3>(in.totals[1][panel + 1], 64);
  }
}

// The same for one tile: its panels take turns, so that a sum's latency is hidden by the others'.
template <int NP>
void multiply_tile(const SlabProduct& in) {
  const auto each = [&](auto&& body) {
    body.template operator()<0, 6>();
    if constexpr (NP > 1) body.template operator()<1, 7>();
    if constexpr (NP > 2) body.template operator()<2, 6>();
    if constexpr (NP > 3) body.template operator()<3, 7>();
  };
  each([&]<int P, int>() {
    if (in.first)
      Tiles::zero<P>();
    else
      Tiles::load<P>(in.totals[0][P], 64);
  });
  for (std::uint32_t i = 0; i < in.n_products; ++i) {
    Tiles::stream<4>(in.tokens[0] + i * in.step_bytes, 64);
    each([&]<int P, int Weights>() {
      Tiles::load<Weights>(in.weights[P][i], 64);
      Tiles::multiply_bf16<P, 4, Weights>();
    });
  }
  each([&]<int P, int>() { Tiles::store<P>(in.totals[0][P], 64); });
}

void multiply(const SlabProduct& in, std::uint32_t n_panels, bool two_tiles) {
  if (two_tiles) {
    std::uint32_t p = 0;
    for (; p + 2 <= n_panels; p += 2) multiply_two_tiles<2>(in, p);
    if (p < n_panels) multiply_two_tiles<1>(in, p);
    return;
  }
  static_assert(slab_panels == 4);
  if (n_panels == 4) return multiply_tile<4>(in);
  if (n_panels == 3) return multiply_tile<3>(in);
  if (n_panels == 2) return multiply_tile<2>(in);
  multiply_tile<1>(in);
}

// The totals of n_panels → y, token by token: what is written of a token lies in one place.
void store_totals(const PackedMatrix& w, const Scratch& scratch, const TokenTiles& tiles, std::uint32_t tile_begin,
                  std::uint32_t tile_end, std::uint32_t panel, std::uint32_t n_panels, float* y, std::size_t ldy) {
  const __m512 correction = _mm512_set1_ps(wide_cut_correction);
  for (std::uint32_t tile = tile_begin; tile < tile_end; ++tile) {
    for (std::uint32_t t = tiles.first_new_row(tile); t < tiles.rows; ++t) {
      for (std::uint32_t p = 0; p < n_panels; ++p) {
        const __m512 total = _mm512_load_ps(scratch.totals[tile - tile_begin][p][t]);
        const __m512 scale = _mm512_mul_ps(panel_scale(w, panel + p), correction);
        store_panel(w, panel + p, _mm512_mul_ps(total, scale), y + (tiles.begin(tile) + t) * ldy);
      }
    }
  }
}

// n_panels ≤ turn_panels with tiles [tile_begin, tile_end) of tokens, of which the totals have room.
template <class Unpacked>
void multiply_panels(const PackedMatrix& w, const Unpacked& unpack, const Batch& batch, const TokenTiles& tiles,
                     std::uint32_t tile_begin, std::uint32_t tile_end, std::uint32_t panel, std::uint32_t n_panels,
                     float* y, std::size_t ldy, Scratch& scratch) {
  const std::uint32_t n_superchunks = w.layout.k_padded / quant::superchunk_k;
  const auto codes_of = [&](std::uint32_t p, std::uint32_t superchunk) {
    return reinterpret_cast<const std::uint8_t*>(w.panel(panel + p)) +
           std::size_t{superchunk} * Unpacked::superchunk_bytes;
  };
  for (std::uint32_t c = 0; c < n_superchunks; c += wide_slab) {
    const std::uint32_t n = smaller(wide_slab, n_superchunks - c);
    const char* tokens = reinterpret_cast<const char*>(batch.x) + c * superchunk_products * batch.step_bytes;
    for (std::uint32_t turn = 0; turn < n_panels; turn += slab_panels) {
      const std::uint32_t together = smaller(slab_panels, n_panels - turn);
      for (std::uint32_t p = 0; p < together; ++p) {
        for (std::uint32_t s = 0; s < n; ++s)
          unpack.superchunk(codes_of(turn + p, c + s), scratch.weights[p] + superchunk_products * s);
      }
      // What is unpacked next: the slab's next panels, the next slab's first ones, or what lies behind these panels.
      const bool next_turn = turn + slab_panels < n_panels, next_slab = !next_turn && c + wide_slab < n_superchunks;
      const std::uint32_t next_panel = next_slab ? 0 : turn + slab_panels, next_c = next_turn   ? c
                                                                                    : next_slab ? c + wide_slab
                                                                                                : 0;
      const std::size_t next_bytes =
          smaller(wide_slab, n_superchunks - next_c) * std::size_t{Unpacked::superchunk_bytes};
      for (std::uint32_t tile = tile_begin; tile < tile_end; tile += 2) {
        for (std::uint32_t p = 0; p < together; ++p)
          prefetch_part(codes_of(next_panel + p, next_c), next_bytes, (tile - tile_begin) / 2,
                        (tile_end - tile_begin + 1) / 2);
        const bool two = tile + 1 < tile_end;
        const std::uint32_t second = two ? tile + 1 : tile;
        multiply({scratch.weights,
                  {tokens + std::size_t{64} * tiles.begin(tile), tokens + std::size_t{64} * tiles.begin(second)},
                  batch.step_bytes,
                  n * superchunk_products,
                  c == 0,
                  {scratch.totals[tile - tile_begin] + turn, scratch.totals[second - tile_begin] + turn}},
                 together, two);
      }
    }
  }
  store_totals(w, scratch, tiles, tile_begin, tile_end, panel, n_panels, y, ldy);
}

template <Format F>
void gemm(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
          std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy, std::byte* tile) {
  const Bf16Unpack<F> unpack(w);
  const Batch batch{x.bf16 + std::size_t{token_begin} * product_k, std::size_t{x.n_tokens} * product_k * 2};
  auto& scratch = *reinterpret_cast<Scratch*>(tile);
  const TokenTiles tiles(n_tokens);
  const Tiles configured(tiles.rows, 64);
  for (std::uint32_t begin = 0; begin < tiles.n; begin += totals_tiles) {
    const std::uint32_t end = smaller(begin + totals_tiles, tiles.n);
    for (std::uint32_t panel = panel_begin; panel < panel_end; panel += turn_panels)
      multiply_panels(w, unpack, batch, tiles, begin, end, panel, smaller(turn_panels, panel_end - panel), y, ldy,
                      scratch);
  }
}

void bf16_row(const Activations& view, std::uint32_t token) {
  if (view.n_tokens < bf16_min_tokens) return;
  const float* x = view.x + std::size_t{token} * view.k_padded;
  std::uint16_t* to = const_cast<std::uint16_t*>(view.bf16) + std::size_t{token} * product_k;
  for (std::uint32_t k = 0; k < view.k_padded; k += product_k, to += std::size_t{view.n_tokens} * product_k) {
    for (std::uint32_t half = 0; half < product_k; half += 16) {
      // To nearest, ties to even.
      const __m512i bits = _mm512_loadu_si512(x + k + half);
      const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
      const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + half), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
    }
  }
}

bool quantize_row(const Activations& view, std::uint32_t token) {
  const bool finite = quantize_row_avx2(view, token);
  bf16_row(view, token);
  return finite;
}

template <Format F>
void use(WideGemm* table) {
  table[static_cast<int>(F)] = {gemm<F>, bf16_min_tokens, true};
}

}  // namespace

void use_amx_bf16_gemm(Kernels& kernels) {
  WideGemm* table = kernels.wide_gemm;
  use<Format::nl6>(table);
  use<Format::w8>(table);
  kernels.quantize_row = quantize_row;
  kernels.bf16_row = bf16_row;
}

}  // namespace r1::simd
