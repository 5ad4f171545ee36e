#include "runtime/model/linear.h"

#include <algorithm>
#include <bit>

#include "runtime/model/work_share.h"

namespace r1::rt {
namespace {

constexpr std::uint32_t onednn_unit_panels = 16;  // 256 rows: enough for one call to be worth its dispatch

bool uses_onednn(const Product& product) {
  return !product.batch_invariant && product.n_rows >= simd::gemm_onednn_min_tokens &&
         !quant::info(product.w->format).is_packed();
}

// Panels that stay in the first-level cache's reach while all tokens walk over them.
std::uint32_t panels_per_walk(const simd::PackedMatrix& w) {
  constexpr std::size_t walk_bytes = 64 << 10;
  return static_cast<std::uint32_t>(
      std::max<std::size_t>(1, walk_bytes / std::max<std::size_t>(1, w.layout.panel_bytes)));
}

std::uint32_t n_tiles(std::uint32_t n_rows) {
  return (n_rows + simd::max_gemv_tokens - 1) / simd::max_gemv_tokens;
}

}  // namespace

std::uint32_t panels_per_unit(const Product& product) {
  return uses_onednn(product) ? onednn_unit_panels : 1;
}

std::uint32_t n_units(const Product& product) {
  const std::uint32_t unit = panels_per_unit(product);
  return (product.w->layout.n_panels + unit - 1) / unit;
}

void multiply_units(const simd::Kernels& kernels, const Product& product, std::uint32_t unit_begin,
                    std::uint32_t unit_end) {
  const simd::PackedMatrix& w = *product.w;
  const std::uint32_t unit = panels_per_unit(product);
  const std::uint32_t panel_end = std::min(unit_end * unit, w.layout.n_panels);
  if (uses_onednn(product)) {
    for (std::uint32_t panel = unit_begin * unit; panel < panel_end; panel += unit) {
      simd::gemm_onednn(w, *product.x, product.first_row, product.n_rows, panel, std::min(panel + unit, panel_end),
                        product.y, product.ldy);
    }
    return;
  }
  const simd::GemvFn gemv = kernels.gemv[static_cast<std::size_t>(w.format)];
  const std::uint32_t walk = product.n_rows <= simd::max_gemv_tokens ? panel_end : panels_per_walk(w);
  for (std::uint32_t panel = unit_begin; panel < panel_end; panel += walk) {
    for (std::uint32_t row = 0; row < product.n_rows; row += simd::max_gemv_tokens) {
      gemv(w, *product.x, product.first_row + row, std::min(simd::max_gemv_tokens, product.n_rows - row), panel,
           std::min(panel + walk, panel_end), product.y + row * product.ldy, product.ldy);
    }
  }
}

void multiply(const numa::Member& member, const simd::Kernels& kernels, std::span<const Product> products) {
  for_each_share(
      member, products.size(), [&](std::size_t i) { return n_units(products[i]); },
      [&](std::size_t i) {
        const Product& p = products[i];
        return std::uint64_t{panels_per_unit(p)} * n_tiles(p.n_rows) * p.w->layout.k_padded;
      },
      [&](std::size_t i, std::uint32_t begin, std::uint32_t end) { multiply_units(kernels, products[i], begin, end); });
}

bool all_finite(const float* x, std::size_t n) {
  // Infinity and NaN are what lies at or above infinity's bits; an integer maximum needs no order and no branch.
  std::uint32_t greatest = 0;
  for (std::size_t i = 0; i < n; ++i) greatest = std::max(greatest, std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffu);
  return greatest < 0x7f800000u;
}

}  // namespace r1::rt
