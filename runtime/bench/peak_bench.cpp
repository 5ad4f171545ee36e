#include "runtime/bench/peak_bench.h"

#include <chrono>

#include "runtime/bench/spread.h"

namespace r1::bench {

Peak integer_peak(const simd::Kernels& kernels) {
  if (kernels.peak_tiles != nullptr) return {"amx", kernels.peak_tiles};
  const bool vnni = kernels.isa == simd::Isa::avx2_vnni || kernels.isa == simd::Isa::avx512_vnni;
  return {vnni ? "vnni" : "int8", kernels.peak_int8};
}

std::vector<Peak> peaks_of(const simd::Kernels& kernels) {
  std::vector<Peak> peaks = {{"fma", kernels.peak_f32}};
  if (kernels.peak_bf16 != nullptr) peaks.push_back({"bf16", kernels.peak_bf16});
  if (kernels.peak_tiles != nullptr) peaks.push_back({"vnni", kernels.peak_int8});
  peaks.push_back(integer_peak(kernels));
  return peaks;
}

std::vector<Peak> measure_peaks(const simd::Kernels& kernels, double seconds) {
  using Clock = std::chrono::steady_clock;
  std::vector<Peak> peaks = peaks_of(kernels);
  std::vector<std::vector<double>> rates(peaks.size());
  const auto start = Clock::now();
  do {
    for (std::size_t i = 0; i < peaks.size(); ++i) {
      const auto turn = Clock::now();
      const auto done = static_cast<double>(peaks[i].run(20'000));
      rates[i].push_back(done / std::chrono::duration<double>(Clock::now() - turn).count());
    }
  } while (std::chrono::duration<double>(Clock::now() - start).count() < seconds);
  for (std::size_t i = 0; i < peaks.size(); ++i) peaks[i].per_s = Spread::of(std::move(rates[i])).median;
  return peaks;
}

}  // namespace r1::bench
