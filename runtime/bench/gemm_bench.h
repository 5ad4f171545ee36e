// How fast batches are multiplied with packed weights, beside the integer dot products that registers alone allow.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "quant/format.h"
#include "simd/kernels.h"

namespace r1::bench {

struct GemmBenchOptions {
  std::vector<simd::Isa> isas;
  std::vector<quant::Format> formats;  // packed ones; others are left out
  std::vector<std::uint32_t> n_tokens;
  std::uint32_t k = 7168;  // weights of a row
  double seconds = 0.2;    // of each figure
  std::function<void(const std::string& what)> on_step;
};

// One thread. The matrix is `rows` × k, larger than the caches: each panel comes from memory once per batch.
struct GemmBenchResult {
  simd::Isa isa = simd::Isa::scalar;
  quant::Format format = quant::Format::f32;
  std::uint32_t n_tokens = 0;
  std::string peak;  // Peak::kind
  double multiply_adds_per_s = 0, peak_per_s = 0, fraction = 0;
};

[[nodiscard]] std::vector<GemmBenchResult> bench_gemm(const GemmBenchOptions& options, const std::byte* memory,
                                                      std::size_t memory_bytes);

}  // namespace r1::bench
