#include "runtime/bench/attention_bench.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <vector>

#include "runtime/attention/attend.h"

namespace r1::bench {
namespace {

constexpr std::uint32_t n_heads = 128, latent = 512, rope = 64;
constexpr rt::AttentionShape shape{n_heads, 1, latent + rope, latent};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

MlaDecode measure_mla_decode(numa::ThreadTeam& team, const simd::Kernels& kernels, simd::KvType type,
                             std::uint32_t depth, double seconds) {
  rt::KvCache kv({type, 1, 1, latent + rope, 0, rope}, depth);
  if (!kv.grow(depth).ok()) return {};
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> row(latent + rope);
  for (std::uint32_t token = 0; token < depth; ++token) {
    for (float& x : row) x = normal(random);
    kv.store_k(kernels, token, 0, 0, row.data());
  }
  rt::QueryBuffer queries(n_heads, shape.d_qk);
  for (std::uint32_t i = 0; i < n_heads * shape.d_qk; ++i) queries.x[i] = 0.05f * normal(random);

  std::vector<rt::Buffer<float>> parts;
  for (std::uint32_t run = 0; run < rt::n_runs(depth); ++run) parts.emplace_back(n_heads * (shape.d_v + 2));
  const auto part_of = [&](std::uint32_t run, std::uint32_t head) {
    float* part = parts[run].data();
    return rt::SoftmaxPart{part + head, part + n_heads + head, part + 2 * n_heads + std::size_t{head} * shape.d_v};
  };
  std::vector<rt::MemberScratch> members(static_cast<std::size_t>(team.size()));
  for (rt::MemberScratch& m : members) {
    m.split = rt::SplitScratch(rt::attention_group_heads, shape.d_v);
  }
  const auto attention = [&] {
    team.run([&](const numa::Member& member) {
      rt::MemberScratch& own = members[static_cast<std::size_t>(member.index())];
      own.split.values_of = nullptr;
      const auto [begin, end] = member.share(n_heads);
      queries.prepare(kernels, kv.shape(), begin, end - begin);
      member.barrier();
      rt::attend_runs(member, kernels, kv, 0, depth, shape, queries, 0, own, part_of);
      member.barrier();
      for (std::uint32_t head = begin; head < end; ++head) {
        const rt::SoftmaxPart total = part_of(0, head);
        for (std::uint32_t run = 1; run < rt::n_runs(depth); ++run) rt::fold(1, shape.d_v, part_of(run, head), total);
        rt::finish(1, shape.d_v, total);
      }
    });
    return static_cast<double>(depth) * n_heads * (shape.d_qk + shape.d_v);
  };

  const auto peak_fn = type == simd::KvType::q8                                     ? kernels.peak_int8
                       : type == simd::KvType::bf16 && kernels.peak_bf16 != nullptr ? kernels.peak_bf16
                                                                                    : kernels.peak_f32;
  std::vector<double> done_by(members.size());
  const auto peak = [&] {
    team.run([&](const numa::Member& member) {
      done_by[static_cast<std::size_t>(member.index())] = static_cast<double>(peak_fn(100'000));
    });
    double done = 0;
    for (const double d : done_by) done += d;
    return done;
  };

  attention();
  peak();
  struct Sample {
    double attention, peak;
  };
  std::vector<Sample> samples;
  for (const double end = now() + seconds; now() < end || samples.size() < 3;) {
    const double t0 = now();
    const double products = attention();
    const double t1 = now();
    const double most = peak();
    samples.push_back({products / (t1 - t0), most / (now() - t1)});
  }
  // Where a neighbour took time from one of the two, their ratio says nothing: the median of the ratios.
  std::sort(samples.begin(), samples.end(),
            [](const Sample& a, const Sample& b) { return a.attention / a.peak < b.attention / b.peak; });
  const Sample& median = samples[samples.size() / 2];
  return {median.attention, median.peak};
}

}  // namespace r1::bench
