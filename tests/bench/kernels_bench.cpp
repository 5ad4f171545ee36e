// How fast the matrix kernels are on this machine: from DRAM as a fraction of what plain reads reach in the same run,
// and from L2. A program for those who write kernels, run by hand; nothing here is a test.
//
//   kernels_bench [--threads N] [--tokens N] [--mib N] [--isa NAME] [--format NAME] [--seconds S] [--pages huge|small]
//   kernels_bench --gemm yes     oneDNN against the row kernels, by batch size
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "numa/thread_team.h"
#include "numa/topology.h"
#include "simd/kernels.h"

using namespace r1;
using quant::Format;

namespace {

struct Options {
  int n_threads = 1;
  std::uint32_t n_tokens = 1;
  std::size_t mib = 256;    // weights in DRAM
  double seconds = 0.5;     // for each figure
  std::string isa, format;  // empty: all
  bool huge_pages = false;  // a mapped file has small ones
  bool gemm = false;
};

constexpr std::uint32_t k = 7168;  // R1's hidden_size

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Memory {
  std::size_t bytes;
  std::byte* data;

  // Random bits: every one decodes, and none are alike enough for a memory controller to compress.
  Memory(std::size_t n, bool huge_pages) : bytes(n) {
    data = static_cast<std::byte*>(std::aligned_alloc(std::size_t{2} << 20, (n + (2 << 20) - 1) >> 21 << 21));
    if (data == nullptr) throw std::bad_alloc();
    ::madvise(data, n, huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    std::uint64_t s = 88172645463325252u;
    for (std::size_t i = 0; i + 8 <= n; i += 8) {
      s ^= s << 13;
      s ^= s >> 7;
      s ^= s << 17;
      std::memcpy(data + i, &s, 8);
    }
  }
  ~Memory() { std::free(data); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
};

// A matrix of about `bytes` in the given memory. Random bits make wild scales there: the time does not depend on them.
simd::PackedMatrix matrix_in(const Memory& memory, Format format, std::size_t bytes) {
  const std::size_t panel_bytes = quant::blob_layout(format, 16, k)->panel_bytes;
  const auto rows = static_cast<std::uint32_t>(std::max<std::size_t>(1, bytes / panel_bytes - 1) * 16);
  simd::PackedMatrix m;
  m.format = format;
  m.layout = *quant::blob_layout(format, rows, k);
  m.blob = memory.data;
  return m;
}

struct Speed {  // per second
  double best = 0, median = 0;
};

// Alternates two jobs until the time is over, so that both meet the same neighbours on the machine. A call takes about
// a millisecond: on a busy machine some calls then run undisturbed.
template <class A, class B>
std::pair<Speed, Speed> alternate(double seconds, A&& a, B&& b) {
  std::vector<double> rates[2];
  for (const double end = now() + seconds; now() < end || rates[0].size() < 3;) {
    const double t0 = now();
    const double work_a = a();
    const double t1 = now();
    const double work_b = b();
    const double t2 = now();
    rates[0].push_back(work_a / (t1 - t0));
    rates[1].push_back(work_b / (t2 - t1));
  }
  const auto speed = [](std::vector<double>& r) {
    std::sort(r.begin(), r.end());
    return Speed{r.back(), r[r.size() / 2]};
  };
  return {speed(rates[0]), speed(rates[1])};
}

void run(const Options& options, const simd::Kernels& kernels, Format format, const Memory& memory,
         numa::ThreadTeam& team) {
  const simd::GemvFn gemv = kernels.gemv[static_cast<int>(format)];
  simd::ActivationBuffer buffer(options.n_tokens, k);
  const simd::Activations x = buffer.view(options.n_tokens, k);
  for (std::uint32_t t = 0; t < options.n_tokens; ++t) {
    float* row = simd::ActivationBuffer::x_row(x, t);
    for (std::uint32_t i = 0; i < k; ++i) row[i] = static_cast<float>(static_cast<int>((i * 7919 + t) % 255) - 127);
    kernels.quantize_row(x, t);
  }
  const simd::PackedMatrix big = matrix_in(memory, format, options.mib << 20);
  std::vector<float> y(std::size_t{options.n_tokens} * big.layout.n_panels * 16);

  // From DRAM: slices of 8 MiB a thread, around and around; the reads are half a turn away.
  const std::uint32_t n_panels = big.layout.n_panels;
  const auto slice = std::max<std::uint32_t>(
      static_cast<std::uint32_t>((std::size_t{8} << 20) / big.layout.panel_bytes) * static_cast<unsigned>(team.size()),
      1);
  std::uint32_t product_at = 0, read_at = n_panels / 2;
  std::uint64_t sink = 0;
  const auto walk = [&](std::uint32_t& at, auto&& body) {
    if (at + slice > n_panels) at = 0;
    team.run([&](const numa::Member& member) {
      const auto [begin, end] = member.share(slice);
      body(member, at + begin, at + end);
    });
    at += slice;
    return static_cast<double>(slice) * static_cast<double>(big.layout.panel_bytes);
  };
  const auto product = [&] {
    return walk(product_at, [&](const numa::Member&, std::uint32_t begin, std::uint32_t end) {
      gemv(big, x, 0, options.n_tokens, begin, end, y.data(), std::size_t{n_panels} * 16);
    });
  };
  const auto read = [&] {
    return walk(read_at, [&](const numa::Member& member, std::uint32_t begin, std::uint32_t end) {
      const std::uint64_t sum = numa::read_bytes(big.panel(begin), (end - begin) * big.layout.panel_bytes);
      if (member.index() == 0) sink += sum;
    });
  };
  const auto [dram, reads] = alternate(options.seconds, product, read);

  // From L2, one thread, half a core's L2 so that nothing is evicted.
  const simd::PackedMatrix small = matrix_in(memory, format, std::size_t{512} << 10);
  const auto in_cache = [&] {
    constexpr int repeats = 8;
    for (int i = 0; i < repeats; ++i)
      gemv(small, x, 0, options.n_tokens, 0, small.layout.n_panels, y.data(), std::size_t{n_panels} * 16);
    return repeats * static_cast<double>(small.layout.n_panels) * static_cast<double>(small.layout.panel_bytes);
  };
  in_cache();
  const Speed l2 = alternate(options.seconds / 2, in_cache, [] { return 0.0; }).first;

  const double bits = 8.0 * static_cast<double>(big.layout.panel_bytes) / (16.0 * k);
  std::printf("%-12s %-5s %6.3f | %6.1f %6.1f %5.1f %% %5.1f %% %6.1f | %6.1f %6.1f%s\n", simd::isa_name(kernels.isa),
              quant::info(format).name, bits, dram.best / 1e9, reads.best / 1e9, 100 * dram.best / reads.best,
              100 * dram.median / reads.median, 8 * dram.best / bits / 1e9, l2.best / 1e9, 8 * l2.best / bits / 1e9,
              sink == 1 ? " " : "");
  std::fflush(stdout);
}

// gemm_onednn against eight tokens at a time of the row kernel, one thread.
void compare_gemm(Format format, std::uint32_t rows, double seconds) {
  const auto layout = *quant::blob_layout(format, rows, k);
  const Memory memory(layout.bytes, false);
  std::memset(memory.data, 0, layout.bytes);  // random bits would be NaN and subnormals
  const simd::PackedMatrix m{format, layout, memory.data};
  const simd::Kernels& kernels = *simd::choose_kernels("", nullptr);
  for (const std::uint32_t n_tokens : {8u, 16u, 24u, 32u, 48u, 64u, 128u}) {
    simd::ActivationBuffer buffer(n_tokens, k);
    const simd::Activations x = buffer.view(n_tokens, k);
    std::vector<float> y(std::size_t{n_tokens} * layout.n_panels * 16);
    const std::size_t ldy = std::size_t{layout.n_panels} * 16;
    const double products = static_cast<double>(n_tokens) * rows * k;
    const auto ours = [&] {
      for (std::uint32_t t = 0; t < n_tokens; t += 8) {
        kernels.gemv[static_cast<int>(format)](m, x, t, std::min(8u, n_tokens - t), 0, layout.n_panels,
                                               y.data() + t * ldy, ldy);
      }
      return products;
    };
    const auto theirs = [&] {
      simd::gemm_onednn(m, x, 0, n_tokens, 0, layout.n_panels, y.data(), ldy);
      return products;
    };
    theirs();
    const auto [row_kernel, onednn] = alternate(seconds, ours, theirs);
    std::printf("%-5s %5u x %u, %3u tokens: row kernel %6.1f, oneDNN %6.1f G products/s\n", quant::info(format).name,
                rows, k, n_tokens, row_kernel.best / 1e9, onednn.best / 1e9);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i], value = argv[i + 1];
    if (name == "--threads") options.n_threads = std::max(1, std::atoi(value.c_str()));
    if (name == "--tokens") options.n_tokens = static_cast<std::uint32_t>(std::clamp(std::atoi(value.c_str()), 1, 8));
    if (name == "--mib") options.mib = static_cast<std::size_t>(std::clamp(std::atoi(value.c_str()), 16, 1 << 16));
    if (name == "--seconds") options.seconds = std::atof(value.c_str());
    if (name == "--isa") options.isa = value;
    if (name == "--format") options.format = value;
    if (name == "--pages") options.huge_pages = value == "huge";
    if (name == "--gemm") options.gemm = true;
  }
  if (options.gemm) {
    for (const Format format : {Format::bf16, Format::f32}) {
      for (const std::uint32_t rows : {256u, 2048u}) compare_gemm(format, rows, options.seconds);
    }
    return 0;
  }
  const Memory memory((options.mib << 20) + (1 << 20), options.huge_pages);
  numa::ThreadTeam team({options.n_threads, true});
  std::printf(
      "%d thread(s), %u token(s), K = %u; DRAM: GB/s, read GB/s, best of each and median, Gw/s | L2: GB/s, Gw/s\n",
      options.n_threads, options.n_tokens, k);
  for (const simd::IsaReport& line : simd::isa_report("")) {
    if (!line.available || (!options.isa.empty() && options.isa != simd::isa_name(line.isa))) continue;
    if (line.isa == simd::Isa::scalar && options.isa.empty()) continue;
    for (const Format format : quant::all_formats) {
      if (!options.format.empty() && options.format != quant::info(format).name) continue;
      run(options, *simd::kernels_for(line.isa), format, memory, team);
    }
  }
}
