// Prefill's products at R1's shapes: our tiles from packed weights beside oneDNN, which needs the weights in a form of
// its own and gets scales of whole rows alone, where ours have 32 k. One core.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "simd/kernels.h"

namespace r1::bench {

struct OnednnBenchOptions {
  const simd::Kernels* kernels = nullptr;
  std::vector<std::uint32_t> n_tokens = {32, 128, 512, 2048, 4096};
  std::vector<std::string> products;  // by name; empty: all
  double seconds = 0.2;               // of each figure
  std::function<void(const std::string& what)> on_step;
};

struct OnednnBenchResult {
  std::string product, by;  // by: "tiles" with the format's name, "page" (attention), "u8s8", "s8s8", "bf16"
  std::string code;         // oneDNN's name of what runs; "" for ours
  std::uint32_t k = 0, n_rows = 0, n_tokens = 0;  // n_rows: of a call
  double multiply_adds_per_s = 0;                 // weights ready (ours: packed, and unpacked in this time)
  double from_packed_per_s = 0;                   // weights turned from packed panels in this time; 0: has none
  std::string peak;                               // Peak::kind
  double peak_per_s = 0, fraction = 0, from_packed_fraction = 0;
};

[[nodiscard]] std::vector<std::string> onednn_bench_products();
// Empty where the table has no means to turn weights (below AVX-512 VNNI).
[[nodiscard]] std::vector<OnednnBenchResult> bench_onednn(const OnednnBenchOptions& options);

}  // namespace r1::bench
