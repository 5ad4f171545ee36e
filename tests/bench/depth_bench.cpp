// Attention at depth, each type of cache: how much of what the arithmetic units can do it reaches. Run by hand.
//
//   depth_bench [threads] [seconds] [isa, "" is the best] [type of cache]
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/bench/attention_bench.h"

int main(int argc, char** argv) {
  using namespace r1;
  numa::ThreadTeam team({argc > 1 ? std::atoi(argv[1]) : 0, true});
  const double seconds = argc > 2 ? std::atof(argv[2]) : 1;
  const simd::Kernels* kernels = simd::choose_kernels(argc > 3 ? argv[3] : "", nullptr);
  if (kernels == nullptr) return 1;
  struct Type {
    simd::KvType type;
    const char* name;
  };
  std::printf("%s, %d thread(s), MLA of R1, one token: G multiply-adds/s, of the peak beside it\n",
              simd::isa_name(kernels->isa), team.size());
  for (const Type& kv :
       {Type{simd::KvType::q8, "q8"}, Type{simd::KvType::bf16, "bf16"}, Type{simd::KvType::f16, "f16"}}) {
    if (argc > 4 && argv[4] != std::string(kv.name)) continue;
    for (const std::uint32_t depth : {4096u, 16384u}) {
      const bench::MlaDecode d = bench::measure_mla_decode(team, *kernels, kv.type, depth, seconds);
      std::printf("%-5s %6u  %7.1f of %7.1f  %5.1f %%\n", kv.name, depth, d.multiply_adds_per_s / 1e9,
                  d.peak_per_s / 1e9, 100 * d.fraction());
      std::fflush(stdout);
    }
  }
}
