// The search for the best codes of one 32-k block at several scales at once (FORMAT.md, "Encoder").
//
// A path through a group's circular trellis is a sequence of codes whose overlaps agree: entering weight t in state σ,
// the code is one whose low 6 − step(t−1) bits are σ, and it leaves state code >> step(t). The path minimises Σ w (x −
// s·c)². Divided by s² and without the constant Σ w x²/s², a weight costs c·(w·c − 2·w·x/s): two fused multiply-adds.
//
// Where the steps of neighbours are wide (t3_5, t4, t5), several codes lead from one state to the same other one. The
// cheapest of each such bundle does not depend on the path: it is found once and serves both passes.
//
// Lanes are scale candidates. Every lane does the same operations in the same order, so a one-lane instantiation gives
// the same bits; the tests hold the two against each other.
#pragma once

#include <immintrin.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "quant/format.h"

namespace r1::quant {

// Eight candidates in one AVX register.
struct Lanes8 {
  static constexpr int n = 8;
  __m256 v;
  static Lanes8 broadcast(float x) { return {_mm256_set1_ps(x)}; }
  static Lanes8 load(const float* p) { return {_mm256_loadu_ps(p)}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
};
inline Lanes8 fma(Lanes8 a, Lanes8 b, Lanes8 c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
inline Lanes8 mul(Lanes8 a, Lanes8 b) {
  return {_mm256_mul_ps(a.v, b.v)};
}
inline Lanes8 add(Lanes8 a, Lanes8 b) {
  return {_mm256_add_ps(a.v, b.v)};
}
inline Lanes8 min(Lanes8 a, Lanes8 b) {
  return {_mm256_min_ps(a.v, b.v)};
}

// One candidate: the oracle.
struct Lanes1 {
  static constexpr int n = 1;
  float v;
  static Lanes1 broadcast(float x) { return {x}; }
  static Lanes1 load(const float* p) { return {*p}; }
  void store(float* p) const { *p = v; }
};
inline Lanes1 fma(Lanes1 a, Lanes1 b, Lanes1 c) {
  return {std::fma(a.v, b.v, c.v)};
}
inline Lanes1 mul(Lanes1 a, Lanes1 b) {
  return {a.v * b.v};
}
inline Lanes1 add(Lanes1 a, Lanes1 b) {
  return {a.v + b.v};
}
inline Lanes1 min(Lanes1 a, Lanes1 b) {
  return {a.v < b.v ? a.v : b.v};
}

// What the search needs to know of a T format, at compile time.
template <int StepEven, int StepOdd, int GroupWeights>
struct TrellisShape {
  static constexpr int group_weights = GroupWeights;
  static constexpr int n_groups = static_cast<int>(block_k) / GroupWeights;
  static constexpr int step(int t) { return t & 1 ? StepOdd : StepEven; }  // GroupWeights is even: t may wrap
  static constexpr int n_states_after(int t) { return 1 << (6 - step(t)); }
  static constexpr bool has_bundles = StepEven + StepOdd > 6;  // several codes from one state to another
  static constexpr int max_states = 1 << (6 - (StepEven < StepOdd ? StepEven : StepOdd));
  // Weights on either side of the boundary that decide its state in the first pass. The memory of the trellis is at
  // most three weights; eight give the same RMSE as the whole group to four digits (measured on t2, Gauss: .2778 both).
  static constexpr int context = GroupWeights / 2 < 8 ? GroupWeights / 2 : 8;
};

template <class Shape, class Lanes>
class TrellisSearch {
 public:
  explicit TrellisSearch(const std::int8_t* codebook) {
    for (int v = 0; v < 64; ++v) {
      value_[v] = static_cast<float>(codebook[v]);
      values_[v] = Lanes::broadcast(value_[v]);
    }
  }

  // x, w: [32]; scale: [Lanes::n], the block's candidates (value = scale · codebook). cost: [Lanes::n], up to Σ w x².
  void run(const float* x, const float* w, const float* scale, float* cost) {
    float inverse[Lanes::n];
    for (int l = 0; l < Lanes::n; ++l) inverse[l] = 1.0f / scale[l];
    const Lanes inv = Lanes::load(inverse);
    for (int i = 0; i < static_cast<int>(block_k); ++i) {
      weight_[i] = w[i];
      slope_[i] = mul(Lanes::broadcast(-2.0f * w[i] * x[i]), inv);
    }
    Lanes total = Lanes::broadcast(0);
    for (int g = 0; g < Shape::n_groups; ++g) total = add(total, search_group(g));
    const Lanes s = Lanes::load(scale);
    mul(mul(s, s), total).store(cost);
  }

  // Codes of the best path of one candidate of the last run.
  void trace(int lane, std::uint8_t* codes) const {
    for (int g = 0; g < Shape::n_groups; ++g) {
      int state = boundary_[g][lane];
      for (int t = Shape::group_weights - 1; t >= 0; --t) {
        const int code = best_code(g, t, costs_[g][t], state, lane);
        codes[g * Shape::group_weights + t] = static_cast<std::uint8_t>(code);
        state = code & (Shape::n_states_after(t + Shape::group_weights - 1) - 1);
      }
    }
  }

 private:
  using Costs = std::array<Lanes, Shape::max_states>;  // by state

  // Cheapest way into each state behind weight t, from the costs of the states before it. The parity of t decides the
  // steps; all else is data.
  void forward(int g, int t, const Costs& before, Costs& after) const {
    t & 1 ? forward_at<1>(g, t, before, after) : forward_at<0>(g, t, before, after);
  }
  // Cheapest way from each state before weight t to the end, from the costs of the states behind it.
  void backward(int g, int t, const Costs& after, Costs& before) const {
    t & 1 ? backward_at<1>(g, t, after, before) : backward_at<0>(g, t, after, before);
  }

  template <int Parity>
  void forward_at(int g, int t, const Costs& before, Costs& after) const {
    constexpr int k = Shape::step(Parity), n_before = Shape::n_states_after(Parity + 1);
    if constexpr (Shape::has_bundles) {
      constexpr int n_after = Shape::n_states_after(Parity);
      for (int s = 0; s < n_after; ++s) {
        after[at(s)] =
            cheapest<n_before>([&](int j) { return add(bundle_[at(t)][at(j * n_after + s)], before[at(j)]); });
      }
      return;
    }
    const int i = g * Shape::group_weights + t;
    const Lanes w = Lanes::broadcast(weight_[i]), slope = slope_[i];
    for (int s = 0; s < Shape::n_states_after(Parity); ++s) {
      after[at(s)] = cheapest<1 << k>([&](int j) {
        const int code = s << k | j;
        return code_cost(code, w, slope, before[at(code & (n_before - 1))]);
      });
    }
  }

  template <int Parity>
  void backward_at(int g, int t, const Costs& after, Costs& before) const {
    constexpr int k = Shape::step(Parity), n_before = Shape::n_states_after(Parity + 1);
    if constexpr (Shape::has_bundles) {
      constexpr int n_after = Shape::n_states_after(Parity);
      for (int s = 0; s < n_before; ++s) {
        before[at(s)] =
            cheapest<n_after>([&](int j) { return add(bundle_[at(t)][at(s * n_after + j)], after[at(j)]); });
      }
      return;
    }
    const int i = g * Shape::group_weights + t;
    const Lanes w = Lanes::broadcast(weight_[i]), slope = slope_[i];
    for (int s = 0; s < n_before; ++s) {
      before[at(s)] = cheapest<64 / n_before>([&](int j) {
        const int code = j * n_before | s;
        return code_cost(code, w, slope, after[at(code >> k)]);
      });
    }
  }

  // bundle_[t]: the cheapest code from each state before weight t to each behind it.
  void find_bundles(int g, int t) { t & 1 ? find_bundles_at<1>(g, t) : find_bundles_at<0>(g, t); }
  template <int Parity>
  void find_bundles_at(int g, int t) {
    constexpr int k = Shape::step(Parity), before_bits = 6 - Shape::step(Parity + 1);
    constexpr int n_before = 1 << before_bits, n_after = Shape::n_states_after(Parity);
    const int i = g * Shape::group_weights + t;
    const Lanes w = Lanes::broadcast(weight_[i]), slope = slope_[i];
    for (int b = 0; b < n_before; ++b) {
      for (int s = 0; s < n_after; ++s) {
        bundle_[at(t)][at(b * n_after + s)] = cheapest<(1 << k) / n_before>([&](int j) {
          const int code = s << k | j << before_bits | b;
          return mul(values_[code], fma(w, values_[code], slope));
        });
      }
    }
  }

  // The least of n costs. Four chains of minima, because one would wait for its own latency; the least is the same.
  template <int N, class Cost>
  static Lanes cheapest(const Cost& cost) {
    if constexpr (N == 2) return min(cost(0), cost(1));
    Lanes least[4] = {cost(0), cost(1), cost(2), cost(3)};
#pragma GCC unroll 32
    for (int j = 4; j < N; ++j) least[j & 3] = min(cost(j), least[j & 3]);
    return min(min(least[0], least[1]), min(least[2], least[3]));
  }

  static constexpr std::size_t at(int i) {
    return static_cast<std::size_t>(i);
  }

  Lanes code_cost(int code, Lanes w, Lanes slope, Lanes before) const {
    return fma(values_[code], fma(w, values_[code], slope), before);
  }

  // The code by which a path of `lane` enters `state` behind weight t; ties to the lower code.
  int best_code(int g, int t, const Costs& before, int state, int lane) const {
    const int k = Shape::step(t), mask = Shape::n_states_after(t + Shape::group_weights - 1) - 1;
    const int i = g * Shape::group_weights + t;
    const float slope = lane_of(slope_[i], lane);
    float best = 0;
    int best_code = -1;
    for (int j = 0; j < 1 << k; ++j) {
      const int code = state << k | j;
      const float c = value_[code];
      const float slope_there = std::fma(weight_[i], c, slope), cost_before = lane_of(before[at(code & mask)], lane);
      const float cost = Shape::has_bundles ? c * slope_there + cost_before : std::fma(c, slope_there, cost_before);
      if (best_code < 0 || cost < best) {
        best = cost;
        best_code = code;
      }
    }
    return best_code;
  }

  static float lane_of(const Lanes& lanes, int lane) {
    return reinterpret_cast<const float*>(&lanes)[lane];
  }

  // Pass 1: forwards up to the boundary of the circle and backwards down to it, both with free far ends, fixes the
  // state there. Pass 2 goes once around from that state and back to it. Returns the cost of pass 2.
  Lanes search_group(int g) {
    constexpr int n = Shape::group_weights, c = Shape::context;
    if constexpr (Shape::has_bundles) {
      for (int t = 0; t < n; ++t) find_bundles(g, t);
    }
    Costs ends[2], heads[2];
    ends[0].fill(Lanes::broadcast(0));
    heads[0].fill(Lanes::broadcast(0));
    for (int i = 0; i < c; ++i) forward(g, n - c + i, ends[i & 1], ends[~i & 1]);
    for (int i = 0; i < c; ++i) backward(g, c - 1 - i, heads[i & 1], heads[~i & 1]);
    Costs through;
    for (int s = 0; s < n_boundary_states; ++s) through[at(s)] = add(ends[c & 1][at(s)], heads[c & 1][at(s)]);
    Costs& start = costs_[g][0];
    start.fill(Lanes::broadcast(unreachable));
    for (int lane = 0; lane < Lanes::n; ++lane) {
      int state = 0;
      for (int s = 1; s < n_boundary_states; ++s) {
        if (lane_of(through[at(s)], lane) < lane_of(through[at(state)], lane)) state = s;
      }
      boundary_[g][lane] = static_cast<std::uint8_t>(state);
      reinterpret_cast<float*>(&start[at(state)])[lane] = 0;
    }
    for (int t = 0; t < n; ++t) forward(g, t, costs_[g][t], costs_[g][t + 1]);
    float cost[Lanes::n];
    for (int lane = 0; lane < Lanes::n; ++lane) cost[lane] = lane_of(costs_[g][n][boundary_[g][lane]], lane);
    return Lanes::load(cost);
  }

  // (before, behind) pairs of states: 2^(12 − two neighbours' steps); none are kept where each has one code at most.
  static constexpr int n_bundles = Shape::has_bundles ? 1 << (12 - Shape::step(0) - Shape::step(1)) : 1;
  static constexpr int n_boundary_states = Shape::n_states_after(Shape::group_weights - 1);
  static constexpr float unreachable = 1e30f;

  Lanes values_[64];
  float value_[64];
  float weight_[block_k];
  Lanes slope_[block_k];
  std::array<std::array<Lanes, n_bundles>, Shape::group_weights> bundle_;
  Costs costs_[Shape::n_groups][Shape::group_weights + 1];
  std::uint8_t boundary_[Shape::n_groups][Lanes::n];
};

}  // namespace r1::quant
