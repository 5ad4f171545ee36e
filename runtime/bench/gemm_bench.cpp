#include "runtime/bench/gemm_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <span>

#include "runtime/bench/peak_bench.h"
#include "runtime/model/buffer.h"

namespace r1::bench {
namespace {

constexpr std::uint32_t call_panels = 16;  // of one call, as the forward pass shares panels out

GemmBenchResult measure(const simd::Kernels& kernels, const simd::PackedMatrix& w, const simd::Activations& x,
                        double seconds, std::span<float> y, std::byte* tile) {
  const auto format = static_cast<std::size_t>(w.format);
  const std::uint32_t n_panels = w.layout.n_panels, n_tokens = x.n_tokens;
  const std::size_t ldy = std::size_t{n_panels} * quant::panel_rows;
  const Peak peak = integer_peak(kernels);
  std::uint32_t panel = 0;
  const auto call = [&] {
    if (panel + call_panels > n_panels) panel = 0;
    if (n_tokens < simd::gemm_min_tokens) {
      kernels.gemv[format](w, x, 0, n_tokens, panel, panel + call_panels, y.data(), ldy);
    } else {
      kernels.gemm_for(w.format, n_tokens)(w, x, 0, n_tokens, panel, panel + call_panels, y.data(), ldy, tile);
    }
    panel += call_panels;
  };
  const double multiply_adds = double{1} * call_panels * quant::panel_rows * w.layout.k * n_tokens;
  const Rate rate = measure_beside(peak, multiply_adds, seconds, call);
  return {kernels.isa, w.format, n_tokens, peak.kind, rate.per_s, rate.peak_per_s, rate.fraction};
}

}  // namespace

std::vector<GemmBenchResult> bench_gemm(const GemmBenchOptions& options, const std::byte* memory,
                                        std::size_t memory_bytes) {
  std::vector<GemmBenchResult> results;
  const std::uint32_t k = options.k;
  const std::uint32_t most = *std::max_element(options.n_tokens.begin(), options.n_tokens.end());
  simd::ActivationBuffer buffer(most, k);
  rt::Buffer<std::byte> tile(simd::gemm_tile_bytes);
  for (const simd::Isa isa : options.isas) {
    const simd::Kernels* kernels = simd::kernels_for(isa);
    if (kernels == nullptr) continue;
    for (const quant::Format format : options.formats) {
      if (!quant::info(format).is_packed()) continue;
      constexpr std::uint32_t wanted_rows = 16384;
      std::uint32_t rows = wanted_rows;
      while (quant::blob_layout(format, rows, k)->bytes > memory_bytes) rows /= 2;
      const simd::PackedMatrix w{format, *quant::blob_layout(format, rows, k), memory};
      std::vector<float> y(std::size_t{most} * rows);
      for (const std::uint32_t n_tokens : options.n_tokens) {
        if (options.on_step) {
          options.on_step(fmt::format("{} {}, {} tokens", simd::isa_name(isa), quant::info(format).name, n_tokens));
        }
        const simd::Activations x = buffer.view(n_tokens, k);
        for (std::uint32_t t = 0; t < n_tokens; ++t) {
          float* row = simd::ActivationBuffer::x_row(x, t);
          for (std::uint32_t i = 0; i < k; ++i)
            row[i] = static_cast<float>(static_cast<int>((i * 7919 + t) % 255) - 127);
          (void)kernels->quantize_row(x, t);
        }
        results.push_back(measure(*kernels, w, x, options.seconds, y, tile.data()));
      }
    }
  }
  return results;
}

}  // namespace r1::bench
