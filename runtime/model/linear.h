// y = W x for a batch of tokens, shared out over the team by rows of W.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "numa/thread_team.h"
#include "simd/kernels.h"

namespace r1::rt {

// One product: rows first_row … of the input through one matrix.
struct Product {
  const simd::PackedMatrix* w = nullptr;
  const simd::Activations* x = nullptr;
  std::uint32_t first_row = 0, n_rows = 0;  // of x
  float* y = nullptr;                       // [n_rows, ldy]
  std::size_t ldy = 0;
  // Rows of bf16 and f32 matrices have the same bits whatever batch they are in. Otherwise oneDNN may take batches of
  // these, and it adds up in an order of its own.
  bool batch_invariant = false;
};

// The unit in which panels are shared out. Where oneDNN multiplies, its calls must not depend on the number of threads.
[[nodiscard]] std::uint32_t panels_per_unit(const Product& product);
[[nodiscard]] std::uint32_t n_units(const Product& product);

// What a panel costs, in sixths of the time that a row of its k takes: panels are unpacked once for all rows.
[[nodiscard]] std::uint64_t panel_cost(const simd::Kernels& kernels, const Product& product);

// Units [unit_begin, unit_end) of one product, on the calling thread. A panel is read from memory once per batch.
// tile: gemm_tile_bytes of the calling member's.
void multiply_units(const simd::Kernels& kernels, const Product& product, std::uint32_t unit_begin,
                    std::uint32_t unit_end, std::byte* tile);

// This member's share of several products, taken as one pool. A barrier must follow before y is read.
void multiply(const numa::Member& member, const simd::Kernels& kernels, std::span<const Product> products,
              std::byte* tile);

// Whether x[0 … n) holds neither NaN nor infinity.
[[nodiscard]] bool all_finite(const float* x, std::size_t n);

}  // namespace r1::rt
