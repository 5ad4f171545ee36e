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

bool is_wide(const simd::Kernels& kernels, const Product& product) {
  const quant::Format format = product.w->format;
  return kernels.gemm_for(format, product.n_rows) != kernels.gemm[static_cast<std::size_t>(format)];
}

}  // namespace

std::uint32_t panels_per_unit(const Product& product) {
  return uses_onednn(product) ? onednn_unit_panels : 1;
}

std::uint32_t n_units(const Product& product) {
  const std::uint32_t unit = panels_per_unit(product);
  return (product.w->layout.n_panels + unit - 1) / unit;
}

std::uint64_t panel_cost(const simd::Kernels& kernels, const Product& product) {
  constexpr std::uint64_t unpacking_rows = 12;  // as long as unpacking takes (t2 8, t5 16)
  // A row of a wide batch takes two fifths of that time (docs/performance.md, "AMX").
  const std::uint64_t fifths = is_wide(kernels, product) ? 5 * unpacking_rows + 2 * std::uint64_t{product.n_rows}
                                                         : 5 * (unpacking_rows + product.n_rows);
  return fifths * product.w->layout.k_padded;
}

void multiply_units(const simd::Kernels& kernels, const Product& product, std::uint32_t unit_begin,
                    std::uint32_t unit_end, std::byte* tile) {
  const simd::PackedMatrix& w = *product.w;
  const std::uint32_t unit = panels_per_unit(product);
  const std::uint32_t panel_begin = unit_begin * unit, panel_end = std::min(unit_end * unit, w.layout.n_panels);
  if (uses_onednn(product)) {
    for (std::uint32_t panel = panel_begin; panel < panel_end; panel += unit) {
      simd::gemm_onednn(w, *product.x, product.first_row, product.n_rows, panel, std::min(panel + unit, panel_end),
                        product.y, product.ldy);
    }
    return;
  }
  if (panel_begin >= panel_end || product.n_rows == 0) return;
  if (product.n_rows >= simd::gemm_min_tokens) {
    kernels.gemm_for(w.format, product.n_rows)(w, *product.x, product.first_row, product.n_rows, panel_begin, panel_end,
                                               product.y, product.ldy, tile);
  } else {
    static_assert(simd::gemm_min_tokens <= simd::max_gemv_tokens + 1);
    kernels.gemv[static_cast<std::size_t>(w.format)](w, *product.x, product.first_row, product.n_rows, panel_begin,
                                                     panel_end, product.y, product.ldy);
  }
}

void multiply(const numa::Member& member, const simd::Kernels& kernels, std::span<const Product> products,
              std::byte* tile) {
  for_each_share(
      member, products.size(), [&](std::size_t i) { return n_units(products[i]); },
      [&](std::size_t i) { return panels_per_unit(products[i]) * panel_cost(kernels, products[i]); },
      [&](std::size_t i, std::uint32_t begin, std::uint32_t end) {
        multiply_units(kernels, products[i], begin, end, tile);
      });
}

bool all_finite(const float* x, std::size_t n) {
  // Infinity and NaN are what lies at or above infinity's bits; an integer maximum needs no order and no branch.
  std::uint32_t greatest = 0;
  for (std::size_t i = 0; i < n; ++i) greatest = std::max(greatest, std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffu);
  return greatest < 0x7f800000u;
}

}  // namespace r1::rt
