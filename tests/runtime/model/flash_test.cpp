// Attention by splits against softmax(q·k) v in double; and the same bits however a team shares it out.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "quant/fp8.h"
#include "runtime/attention/attend.h"

using namespace r1;
using namespace r1::rt;

namespace {

struct Problem {
  KvShape shape;
  std::uint32_t n_heads, d_v, n_kv;
  std::vector<float> q;                           // [n_heads, k_width]
  std::vector<std::vector<double>> keys, values;  // as the cache holds them

  Problem(const simd::Kernels& kernels, KvCache& kv, std::uint32_t heads, std::uint32_t dv, std::uint32_t n,
          float spread)
      : shape(kv.shape()), n_heads(heads), d_v(dv), n_kv(n) {
    std::mt19937 random(n);
    std::normal_distribution<float> normal(0, 1);
    q.resize(std::size_t{heads} * shape.k_width);
    for (float& x : q) x = spread * normal(random);
    if (shape.type == simd::KvType::bf16) kernels.round_to_bf16(q.data(), q.size(), q.data());  // as attention does
    REQUIRE(kv.grow(n).ok());
    for (std::uint32_t j = 0; j < n; ++j) {
      keys.push_back(store(kernels, shape.k_width, kv.k_row(j, 1, 0), normal, random));
      if (shape.v_width > 0) values.push_back(store(kernels, shape.v_width, kv.v_row(j, 1, 0), normal, random));
    }
    if (shape.v_width == 0) values = keys;
  }

  template <class Normal, class Random>
  std::vector<double> store(const simd::Kernels& kernels, std::uint32_t width, std::byte* row, Normal& normal,
                            Random& random) {
    std::vector<float> x(width);
    for (float& v : x) v = normal(random);
    kernels.store_kv(shape.type, x.data(), width, row);
    std::vector<double> held;
    for (std::uint32_t i = 0; i < width; ++i) {
      std::uint16_t bits = 0;
      if (shape.type != simd::KvType::f32) std::memcpy(&bits, row + 2 * i, 2);
      held.push_back(shape.type == simd::KvType::f32   ? x[i]
                     : shape.type == simd::KvType::f16 ? quant::f16_to_f32(bits)
                                                       : quant::bf16_to_f32(bits));
    }
    return held;
  }

  [[nodiscard]] std::vector<double> naive(std::uint32_t head) const {
    std::vector<double> score(n_kv), out(d_v);
    double max = -1e300, sum = 0;
    for (std::uint32_t j = 0; j < n_kv; ++j) {
      for (std::uint32_t i = 0; i < shape.k_width; ++i) score[j] += q[head * shape.k_width + i] * keys[j][i];
      max = std::max(max, score[j]);
    }
    for (double& s : score) sum += s = std::exp(s - max);
    for (std::uint32_t j = 0; j < n_kv; ++j) {
      for (std::uint32_t i = 0; i < d_v; ++i) out[i] += score[j] / sum * values[j][i];
    }
    return out;
  }
};

std::vector<float> by_splits(const HeadGroup& group, const KvCache& kv, const Problem& problem) {
  const std::uint32_t n = group.n_heads;
  std::vector<float> out(std::size_t{n} * group.d_v), more(out.size()), max(2 * n), sum(2 * n);
  SplitScratch scratch(n, group.d_v);
  QueryBuffer queries(n, problem.shape.k_width);
  std::copy(problem.q.begin(), problem.q.end(), queries.row(0));
  queries.prepare(*group.kernels, problem.shape, 0, n);
  const SoftmaxPart total{max.data(), sum.data(), out.data()}, run{max.data() + n, sum.data() + n, more.data()};
  for (std::uint32_t split = 0; split < n_splits(problem.n_kv); ++split) {
    const bool first_run = split < run_splits;
    attend_split(group, kv, problem.n_kv, split, queries.view(problem.shape, 0), scratch, first_run ? total : run);
    if (!first_run && (split % run_splits == run_splits - 1 || split + 1 == n_splits(problem.n_kv)))
      fold(n, group.d_v, run, total);
  }
  finish(n, group.d_v, total);
  return out;
}

}  // namespace

TEST_CASE("attention by splits equals a naive softmax") {
  std::string why;
  const simd::Kernels* kernels = simd::choose_kernels("", &why);
  REQUIRE(kernels != nullptr);
  for (const auto type : {simd::KvType::f32, simd::KvType::f16, simd::KvType::bf16}) {
    for (const bool mla : {true, false}) {
      for (const std::uint32_t n_kv : {1u, 5u, 255u, 256u, 257u, 700u, 2100u}) {
        for (const float spread : {0.2f, 3.0f}) {
          KvCache kv({type, 2, 1, 48, mla ? 0u : 48u}, 2100);
          const Problem problem(*kernels, kv, 5, mla ? 40 : 48, n_kv, spread);
          const std::vector<float> out = by_splits({kernels, 1, 0, 5, 48, problem.d_v}, kv, problem);
          double worst = 0;
          for (std::uint32_t head = 0; head < 5; ++head) {
            const std::vector<double> expected = problem.naive(head);
            for (std::uint32_t i = 0; i < problem.d_v; ++i) {
              worst = std::max(worst, std::abs(out[head * problem.d_v + i] - expected[i]));
            }
          }
          // bf16: weights are rounded too, by 2⁻⁹ of themselves; values are below 5.
          CHECK(worst < (type == simd::KvType::bf16 ? 5 * 0x1p-8 : 2e-5));
        }
      }
    }
  }
}

TEST_CASE("a head's attention does not depend on which heads go with it") {
  std::string why;
  const simd::Kernels* kernels = simd::choose_kernels("", &why);
  REQUIRE(kernels != nullptr);
  KvCache kv({simd::KvType::f16, 2, 1, 80, 0}, 600);
  const Problem problem(*kernels, kv, 16, 64, 600, 1.0f);
  const std::vector<float> together = by_splits({kernels, 1, 0, 16, 80, 64}, kv, problem);
  for (const std::uint32_t width : {1u, 3u, 7u}) {
    for (std::uint32_t first = 0; first + width <= 16; first += width) {
      Problem part = problem;
      part.q.assign(problem.q.begin() + first * 80, problem.q.begin() + (first + width) * 80);
      const std::vector<float> alone = by_splits({kernels, 1, 0, width, 80, 64}, kv, part);
      CHECK(std::memcmp(alone.data(), together.data() + first * 64, alone.size() * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("members' shares of a token's attention are all units once, and even") {
  for (const std::uint32_t n_kv : {1u, 257u, 2048u, 2049u, 4097u, 16385u, 50000u}) {
    for (const std::uint32_t n_groups : {1u, 8u, 28u}) {
      const RunShare share(n_kv, n_groups);
      for (const std::uint64_t n : {1u, 2u, 3u, 16u, 64u}) {
        CHECK(share.begin(0, n) == 0);
        CHECK(share.begin(n, n) == n_runs(n_kv) * n_groups);
        for (std::uint64_t i = 0; i < n; ++i) {
          const std::uint32_t begin = share.begin(i, n), end = share.begin(i + 1, n);
          REQUIRE(begin <= end);
          double rows = 0;
          for (std::uint32_t unit = begin; unit < end; ++unit) {
            const std::uint32_t run = unit / n_groups;
            rows += std::min(2048u, n_kv - run * 2048);
          }
          CHECK(std::fabs(rows - static_cast<double>(n_kv) * n_groups / static_cast<double>(n)) <= 2048);
        }
      }
    }
  }
}

TEST_CASE("attention at depth has the same bits however many members share it") {
  constexpr std::uint32_t n_kv = 4500;
  constexpr AttentionShape shape{6, 1, 24, 16};
  const simd::Kernels* kernels = simd::choose_kernels("", nullptr);
  REQUIRE(kernels != nullptr);
  for (const auto type : {simd::KvType::f16, simd::KvType::bf16, simd::KvType::q8}) {
    KvCache kv({type, 1, 1, 24, 0, 8}, n_kv);
    REQUIRE(kv.grow(n_kv).ok());
    std::mt19937 random(5);
    std::normal_distribution<float> normal(0, 1);
    QueryBuffer queries(6, 24);
    for (std::uint32_t i = 0; i < 6 * 24; ++i) queries.x[i] = normal(random);
    queries.prepare(*kernels, kv.shape(), 0, 6);
    for (std::uint32_t j = 0; j < n_kv; ++j) {
      float row[24];
      for (float& x : row) x = normal(random);
      kv.store_k(*kernels, j, 0, 0, row);
    }
    std::vector<float> alone;
    for (const int n_threads : {1, 2, 5}) {
      numa::ThreadTeam team({n_threads, false});
      std::vector<MemberScratch> members(static_cast<std::size_t>(n_threads));
      for (MemberScratch& m : members) {
        m.split = SplitScratch(6, 16);
      }
      std::vector<float> parts(n_runs(n_kv) * 6 * 18);
      const auto part_of = [&](std::uint32_t run, std::uint32_t head) {
        float* part = parts.data() + std::size_t{run} * 6 * 18;
        return SoftmaxPart{part + head, part + 6 + head, part + 12 + std::size_t{head} * 16};
      };
      team.run([&](const numa::Member& member) {
        attend_runs(member, *kernels, kv, 0, n_kv, shape, queries, 0, members[static_cast<std::size_t>(member.index())],
                    part_of);
      });
      if (alone.empty()) alone = parts;
      CHECK(std::memcmp(parts.data(), alone.data(), parts.size() * sizeof(float)) == 0);
    }
    // The whole, one head after the other, split by split.
    std::vector<float> total(18);
    SplitScratch scratch(1, 16);
    for (std::uint32_t head = 0; head < 6; ++head) {
      const HeadGroup group{kernels, 0, 0, 1, 24, 16};
      for (std::uint32_t run = 0; run < n_runs(n_kv); ++run) {
        const SoftmaxPart of_run{total.data(), total.data() + 1, total.data() + 2};
        const std::uint32_t end = std::min((run + 1) * run_splits, n_splits(n_kv));
        for (std::uint32_t split = run * run_splits; split < end; ++split) {
          attend_split(group, kv, n_kv, split, queries.view(kv.shape(), head), scratch, of_run);
        }
        CHECK(std::memcmp(total.data() + 2, alone.data() + (run * 6 * 18) + 12 + head * 16, 16 * sizeof(float)) == 0);
      }
    }
  }
}
