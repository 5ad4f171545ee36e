// What one core's multiply-add instructions do on registers, by kind.
#pragma once

#include <functional>
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

// Multiply-adds per second, beside a peak.
struct Rate {
  double per_s = 0, peak_per_s = 0, fraction = 0;
};

// Medians of turns of call(), of so many multiply-adds each, and of the peak: `seconds` together, or a little more.
[[nodiscard]] Rate measure_beside(const Peak& peak, double multiply_adds, double seconds,
                                  const std::function<void()>& call);

}  // namespace r1::bench
