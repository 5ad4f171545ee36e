// Products of row-major bf16 and f32 matrices with batches, by oneDNN's f32 GEMM.
#include <cstring>
#include <dnnl.hpp>
#include <vector>

#include "quant/fp8.h"
#include "simd/kernels.h"

namespace r1::simd {
namespace {

// bf16 rows as f32, a slab of rows at a time: oneDNN 2.6 multiplies bf16 natively only where the CPU has AVX512_BF16 or
// AMX, and emulates it below the speed of f32 elsewhere.
constexpr std::uint32_t slab_rows = 64;

void sgemm(std::uint32_t n_tokens, std::uint32_t n_rows, std::uint32_t k, const float* x, std::size_t ldx,
           const float* w, float* y, std::size_t ldy) {
  // Row-major C[n_tokens, n_rows] = A[n_tokens, k] · B[n_rows, k]ᵀ. The arguments are checked by our caller; a failure
  // could only be a lack of memory, which leaves NaN for the forward pass to report.
  const dnnl_status_t status = dnnl_sgemm('N', 'T', n_tokens, n_rows, k, 1.0f, x, static_cast<dnnl_dim_t>(ldx), w, k,
                                          0.0f, y, static_cast<dnnl_dim_t>(ldy));
  if (status == dnnl_success) return;
  for (std::uint32_t t = 0; t < n_tokens; ++t) std::memset(y + t * ldy, 0xff, n_rows * sizeof(float));
}

}  // namespace

void gemm_onednn(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
                 std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy) {
  const std::uint32_t k = w.layout.k, row_begin = panel_begin * quant::panel_rows;
  const std::uint32_t row_end =
      panel_end * quant::panel_rows < w.layout.rows ? panel_end * quant::panel_rows : w.layout.rows;
  const float* in = x.x + std::size_t{token_begin} * x.k_padded;
  if (w.format == quant::Format::f32) {
    const auto* rows = reinterpret_cast<const float*>(w.blob) + std::size_t{row_begin} * k;
    sgemm(n_tokens, row_end - row_begin, k, in, x.k_padded, rows, y + row_begin, ldy);
    return;
  }
  thread_local std::vector<float> slab;
  slab.resize(std::size_t{slab_rows} * k);
  for (std::uint32_t row = row_begin; row < row_end; row += slab_rows) {
    const std::uint32_t n = row + slab_rows < row_end ? slab_rows : row_end - row;
    quant::bf16_to_f32(reinterpret_cast<const std::uint16_t*>(w.blob) + std::size_t{row} * k, std::size_t{n} * k,
                       slab.data());
    sgemm(n_tokens, n, k, in, x.k_padded, slab.data(), y + row, ldy);
  }
}

}  // namespace r1::simd
