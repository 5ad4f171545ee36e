// Internal to simd/: a batch as calls of a GEMV, for kernels that unpack nothing. Internal linkage, as in
// trellis_shape.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd/kernels.h"

namespace r1::simd {
namespace {

// Panels stay in the first-level cache's reach while all tokens walk over them.
template <GemvFn gemv>
void gemm_by_gemv(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
                  std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy, std::byte*) {
  constexpr std::size_t walk_bytes = 64 << 10;
  const std::size_t whole = walk_bytes / w.layout.panel_bytes;
  const auto walk = static_cast<std::uint32_t>(whole > 1 ? whole : 1);
  for (std::uint32_t panel = panel_begin; panel < panel_end; panel += walk) {
    const std::uint32_t end = panel_end - panel > walk ? panel + walk : panel_end;
    for (std::uint32_t t = 0; t < n_tokens; t += max_gemv_tokens) {
      const std::uint32_t n = n_tokens - t < max_gemv_tokens ? n_tokens - t : max_gemv_tokens;
      gemv(w, x, token_begin + t, n, panel, end, y + t * ldy, ldy);
    }
  }
}

}  // namespace
}  // namespace r1::simd
