// What one core's multiply-add instructions do on registers, by kind.
#pragma once

#include <string>
#include <vector>

#include "simd/kernels.h"

namespace r1::bench {

struct Peak {
  std::string kind;  // "fma", "bf16", "vnni" ("int8" where several instructions make up for it), "amx"
  std::uint64_t (*run)(std::uint64_t n) = nullptr;  // as in simd::Kernels
  double per_s = 0;                                 // multiply-adds
};

// The kinds that this table has.
[[nodiscard]] std::vector<Peak> peaks_of(const simd::Kernels& kernels);
// Of the widest integer products: what batches of packed weights are held against.
[[nodiscard]] Peak integer_peak(const simd::Kernels& kernels);
// The same, measured: medians of turns that take `seconds` together.
[[nodiscard]] std::vector<Peak> measure_peaks(const simd::Kernels& kernels, double seconds);

}  // namespace r1::bench
