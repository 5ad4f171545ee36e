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

Rate measure_beside(const Peak& peak, double multiply_adds, double seconds, const std::function<void()>& call) {
  using Clock = std::chrono::steady_clock;
  constexpr std::size_t min_turns = 5;
  constexpr double turn_seconds = 0.002;
  const auto since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  call();
  std::vector<double> rates, peaks, fractions;
  for (const auto start = Clock::now(); since(start) < seconds || rates.size() < min_turns;) {
    const auto turn = Clock::now();
    double done = 0;
    do {
      call();
      done += multiply_adds;
    } while (since(turn) < turn_seconds);
    rates.push_back(done / since(turn));
    const auto peak_turn = Clock::now();
    const auto most = static_cast<double>(peak.run(20'000));
    peaks.push_back(most / since(peak_turn));
    fractions.push_back(rates.back() / peaks.back());
  }
  return {Spread::of(std::move(rates)).median, Spread::of(std::move(peaks)).median,
          Spread::of(std::move(fractions)).median};
}

}  // namespace r1::bench
