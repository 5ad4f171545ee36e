// How fast attention at depth is: one token of R1's MLA (128 heads over one cache of latents), as decode computes it.
#pragma once

#include <cstdint>
#include <string>

#include "numa/thread_team.h"
#include "simd/kernels.h"

namespace r1::bench {

struct MlaDecode {
  double multiply_adds_per_s = 0;  // 1,088 of each head and cached token count, and nothing else
  double peak_per_s = 0;           // of the widest instruction for the cache's type, measured in between by all threads
  [[nodiscard]] double fraction() const { return multiply_adds_per_s / peak_per_s; }
};

// The median of several, each with a peak beside it.
[[nodiscard]] MlaDecode measure_mla_decode(numa::ThreadTeam& team, const simd::Kernels& kernels, simd::KvType type,
                                           std::uint32_t depth, double seconds);

struct AttentionBenchResult {
  simd::Isa isa = simd::Isa::scalar;
  std::string kv_type;
  std::uint32_t depth_tokens = 0;
  int n_threads = 0;
  MlaDecode speed;
};

}  // namespace r1::bench
