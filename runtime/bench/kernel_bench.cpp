#include "runtime/bench/kernel_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "numa/thread_team.h"
#include "numa/topology.h"

namespace r1::bench {
namespace {

using Clock = std::chrono::steady_clock;

// A matrix of rows of k weights and at most `bytes` (but one panel at least) that lies in the given random bits. They
// make wild scales: the time does not depend on them.
simd::PackedMatrix matrix_in(const std::byte* memory, quant::Format format, std::uint32_t k, std::size_t bytes) {
  const auto rows_of = [&](std::uint32_t n_panels) { return *quant::blob_layout(format, n_panels * 16, k); };
  auto n_panels = static_cast<std::uint32_t>(bytes / rows_of(1).panel_bytes);
  while (n_panels > 1 && rows_of(n_panels).bytes > bytes) --n_panels;
  return {format, rows_of(std::max(n_panels, 1u)), memory};
}

// Work per second of each turn of two jobs that take turns, so that both meet the same neighbours on the machine.
struct Turns {
  std::vector<double> a, b, ratio;
};

template <class A, class B>
Turns take_turns(double seconds, A&& a, B&& b) {
  constexpr std::size_t min_turns = 5;
  Turns turns;
  const auto begin = Clock::now();
  const auto elapsed = [](Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
  };
  while (elapsed(begin, Clock::now()) < seconds || turns.a.size() < min_turns) {
    const auto t0 = Clock::now();
    const double work_a = a();
    const auto t1 = Clock::now();
    const double work_b = b();
    const auto t2 = Clock::now();
    turns.a.push_back(work_a / elapsed(t0, t1));
    turns.b.push_back(work_b / elapsed(t1, t2));
    turns.ratio.push_back(turns.a.back() / turns.b.back());
  }
  return turns;
}

class KernelBench {
 public:
  KernelBench(const KernelBenchOptions& options, ReadBandwidth& memory)
      : options_(options), memory_(memory), team_({options.n_threads, true}), x_buffer_(options.n_tokens, options.k) {}

  std::vector<KernelBenchResult> run() {
    for (const simd::Isa isa : options_.isas) {
      const simd::Kernels* kernels = simd::kernels_for(isa);
      if (kernels == nullptr) continue;
      x_ = x_buffer_.view(options_.n_tokens, options_.k);
      for (std::uint32_t t = 0; t < options_.n_tokens; ++t) {
        float* row = simd::ActivationBuffer::x_row(x_, t);
        for (std::uint32_t i = 0; i < options_.k; ++i)
          row[i] = static_cast<float>(static_cast<int>((i * 7919 + t) % 255) - 127);
        (void)kernels->quantize_row(x_, t);
      }
      for (const quant::Format format : options_.formats) {
        if (options_.on_step) options_.on_step(fmt::format("{} {}", simd::isa_name(isa), quant::info(format).name));
        from_dram(*kernels, format);
        from_l2(*kernels, format);
      }
    }
    return std::move(results_);
  }

 private:
  // Around and around in slices of 8 MiB a thread; the reads are half a turn away.
  void from_dram(const simd::Kernels& kernels, quant::Format format) {
    const simd::PackedMatrix w = matrix_in(memory_.data(), format, options_.k, memory_.size());
    const simd::GemvFn gemv = kernels.gemv[static_cast<std::size_t>(format)];
    const std::uint32_t n_panels = w.layout.n_panels;
    const std::size_t ldy = std::size_t{n_panels} * quant::panel_rows;
    std::vector<float> y(options_.n_tokens * ldy);
    constexpr std::size_t slice_bytes = std::size_t{8} << 20;
    const std::uint32_t slice = std::clamp(
        static_cast<std::uint32_t>(slice_bytes * static_cast<std::size_t>(team_.size()) / w.layout.panel_bytes), 1u,
        n_panels);
    std::uint32_t product_at = 0, read_at = n_panels / 2;
    const auto walk = [&](std::uint32_t& at, auto&& body) {
      if (at + slice > n_panels) at = 0;
      team_.run([&](const numa::Member& member) {
        const auto [begin, end] = member.share(slice);
        body(member, at + begin, at + end);
      });
      at += slice;
      return static_cast<double>(slice) * static_cast<double>(w.layout.panel_bytes);
    };
    const auto product = [&] {
      return walk(product_at, [&](const numa::Member&, std::uint32_t begin, std::uint32_t end) {
        gemv(w, x_, 0, options_.n_tokens, begin, end, y.data(), ldy);
      });
    };
    std::vector<std::uint64_t> sums(static_cast<std::size_t>(team_.size()));
    const auto read = [&] {
      return walk(read_at, [&](const numa::Member& member, std::uint32_t begin, std::uint32_t end) {
        sums[static_cast<std::size_t>(member.index())] ^=
            numa::read_bytes(w.panel(begin), (end - begin) * w.layout.panel_bytes);
      });
    };
    product();
    read();
    add(kernels.isa, w, true, team_.size(), take_turns(options_.seconds, product, read));
  }

  // One thread, and half a MiB: it stays in the L2 of every core that runs AVX-512, and mostly in smaller ones.
  void from_l2(const simd::Kernels& kernels, quant::Format format) {
    const simd::PackedMatrix w = matrix_in(memory_.data(), format, options_.k, std::size_t{512} << 10);
    const simd::GemvFn gemv = kernels.gemv[static_cast<std::size_t>(format)];
    const std::size_t ldy = std::size_t{w.layout.n_panels} * quant::panel_rows;
    const std::size_t bytes = w.layout.n_panels * w.layout.panel_bytes;
    std::vector<float> y(options_.n_tokens * ldy);
    constexpr int n_walks = 8;  // between looks at the clock
    const auto product = [&] {
      for (int i = 0; i < n_walks; ++i) gemv(w, x_, 0, options_.n_tokens, 0, w.layout.n_panels, y.data(), ldy);
      return n_walks * static_cast<double>(bytes);
    };
    std::uint64_t sum = 0;
    const auto read = [&] {
      for (int i = 0; i < n_walks; ++i) sum ^= numa::read_bytes(w.panel(0), bytes);
      return n_walks * static_cast<double>(bytes);
    };
    product();
    Turns turns = take_turns(options_.seconds / 2, product, read);
    checksum_ ^= sum;
    add(kernels.isa, w, false, 1, std::move(turns));
  }

  void add(simd::Isa isa, const simd::PackedMatrix& w, bool from_dram, int n_threads, Turns turns) {
    KernelBenchResult result;
    result.isa = isa;
    result.format = w.format;
    result.from_dram = from_dram;
    result.n_threads = n_threads;
    result.n_tokens = options_.n_tokens;
    result.bytes_per_s = Spread::of(std::move(turns.a));
    result.read_bytes_per_s = Spread::of(std::move(turns.b)).median;
    result.fraction = Spread::of(std::move(turns.ratio));
    const double weights_per_byte =
        static_cast<double>(quant::panel_rows) * options_.k / static_cast<double>(w.layout.panel_bytes);
    result.weights_per_s = result.bytes_per_s.median * weights_per_byte;
    results_.push_back(result);
  }

  const KernelBenchOptions& options_;
  ReadBandwidth& memory_;
  numa::ThreadTeam team_;
  simd::ActivationBuffer x_buffer_;
  simd::Activations x_;
  std::uint64_t checksum_ = 0;
  std::vector<KernelBenchResult> results_;
};

}  // namespace

std::vector<KernelBenchResult> bench_kernels(const KernelBenchOptions& options, ReadBandwidth& memory) {
  return KernelBench(options, memory).run();
}

}  // namespace r1::bench
