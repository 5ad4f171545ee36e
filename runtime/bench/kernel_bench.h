// How fast the row kernels are here: from DRAM beside plain reads, from L2 on one core.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "quant/format.h"
#include "runtime/bench/read_bandwidth.h"
#include "runtime/bench/spread.h"
#include "simd/kernels.h"

namespace r1::bench {

struct KernelBenchOptions {
  std::vector<simd::Isa> isas;
  std::vector<quant::Format> formats;
  int n_threads = 0;           // from DRAM; 0: one per physical core
  std::uint32_t n_tokens = 1;  // 1 … max_gemv_tokens
  std::uint32_t k = 7168;      // weights of a row: DeepSeek-R1's hidden_size
  double seconds = 0.5;        // of each figure
  std::function<void(const std::string& what)> on_step;
};

struct KernelBenchResult {
  simd::Isa isa = simd::Isa::scalar;
  quant::Format format = quant::Format::f32;
  bool from_dram = false;  // else from L2
  int n_threads = 0;
  std::uint32_t n_tokens = 0;
  Spread bytes_per_s;
  double weights_per_s = 0;     // the median
  double read_bytes_per_s = 0;  // the median of plain reads, from the same memory in turns
  Spread fraction;              // of each turn's product and reads
};

// For every instruction set and format, from DRAM and then from L2.
[[nodiscard]] std::vector<KernelBenchResult> bench_kernels(const KernelBenchOptions& options, ReadBandwidth& memory);

}  // namespace r1::bench
