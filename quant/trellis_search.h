// The search for the best codes of 32-k blocks at several scales at once (FORMAT.md, "Encoder"), for any register
// width: `V` is a vector of floats (scalar/, avx2/, avx512/).
//
// A path through a group's circular trellis is a sequence of codes whose overlaps agree: entering weight t in state σ,
// the code is one whose low 6 − step(t−1) bits are σ, and it leaves state code >> step(t). The path minimises Σ w (x −
// s·c)². Divided by s² and without the constant Σ w x²/s², a weight costs w·c² − 2·w·c·x/s.
//
// Pass 1 goes forwards up to the group's boundary and backwards down to it, each over half the group and with a free
// far end: what is cheapest through each boundary state. Pass 2 goes once around, from a boundary state and back to it,
// for the two most promising ones. Trying every state would lower RMSE by another .2 % (t2, t3) to .4 % (t2_5).
//
// Lanes never mix and each does the same operations in the same order, so every width gives the same bits. Internal
// linkage: what is compiled for one instruction set must not be linked in for another. For the same reason nothing of
// the standard library is called here.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quant/block_search.h"
#include "quant/format.h"

namespace r1::quant {
namespace {

// What the search needs to know of a T format, at compile time.
template <int StepEven, int StepOdd, int GroupWeights>
struct TrellisShape {
  static constexpr int group_weights = GroupWeights;
  static constexpr int n_groups = static_cast<int>(block_k) / GroupWeights;
  static constexpr int step(int t) { return t & 1 ? StepOdd : StepEven; }  // GroupWeights is even: t may wrap
  static constexpr int n_states_after(int t) { return 1 << (6 - step(t)); }
  static constexpr int n_boundary_states = 1 << (6 - StepOdd);  // behind the last weight, which is odd
  static constexpr bool has_bundles = StepEven + StepOdd > 6;   // several codes from one state to another
  static constexpr int max_states = 1 << (6 - (StepEven < StepOdd ? StepEven : StepOdd));
};

// How blocks and their scales share the lanes. A narrow vector takes one block in several runs, a wide one several
// blocks in one.
template <class V, int NScales>
struct LaneShare {
  static constexpr int n_blocks = V::n > NScales ? V::n / NScales : 1;
  static constexpr int n_runs = NScales > V::n ? NScales / V::n : 1;
  static constexpr int lanes_per_block = V::n / n_blocks;
  static constexpr int block(int lane) { return lane / lanes_per_block; }
  static constexpr int place(int run, int lane) { return run * V::n + lane % lanes_per_block; }  // < NScales
};

constexpr float unreachable = 1e30f;
constexpr int k_of_block = static_cast<int>(block_k);

template <class V>
float lane_of(const V& v, int lane) {
  return reinterpret_cast<const float*>(&v)[lane];
}
template <class V>
void set_lane(V& v, int lane, float x) {
  reinterpret_cast<float*>(&v)[lane] = x;
}

// The least of n costs. Four chains of minima, because one would wait for its own latency; the least is the same.
template <int N, class Cost>
[[gnu::always_inline]] inline auto cheapest(const Cost& cost) {
  if constexpr (N == 2) {
    return min(cost(0), cost(1));
  } else {
    auto a = cost(0), b = cost(1), c = cost(2), d = cost(3);
#pragma GCC unroll 16
    for (int j = 4; j < N; j += 4) {
      a = min(cost(j), a);
      b = min(cost(j + 1), b);
      c = min(cost(j + 2), c);
      d = min(cost(j + 3), d);
    }
    return min(min(a, b), min(c, d));
  }
}

// The two cheapest states, ties to the lower; states as floats.
template <class V>
struct BestTwo {
  V cost, state, second_cost, second_state;
};
template <int NStates, class V>
BestTwo<V> best_two(const V* costs) {
  BestTwo<V> best{costs[0], V::broadcast(0), V::broadcast(unreachable), V::broadcast(0)};
  for (int s = 1; s < NStates; ++s) {
    const V c = costs[s], state = V::broadcast(static_cast<float>(s));
    const V second_state = if_less(c, best.second_cost, state, best.second_state);
    best.second_state = if_less(c, best.cost, best.state, second_state);
    best.second_cost = if_less(c, best.cost, best.cost, min(c, best.second_cost));
    best.state = if_less(c, best.cost, state, best.state);
    best.cost = min(c, best.cost);
  }
  return best;
}

}  // namespace
}  // namespace r1::quant

#include "quant/bundle_search.h"
#include "quant/edge_search.h"

namespace r1::quant {
namespace {

template <class Shape, class V>
BlockSearch* new_search_of_shape(const std::int8_t* codebook, int n_scales) {
  if constexpr (Shape::has_bundles) {
    if (n_scales == 4) return new BundleSearch<Shape, V, 4>(codebook);
    if (n_scales == 8) return new BundleSearch<Shape, V, 8>(codebook);
    return new BundleSearch<Shape, V, 16>(codebook);
  } else {
    if (n_scales == 4) return new EdgeSearch<Shape, V, 4>(codebook);
    if (n_scales == 8) return new EdgeSearch<Shape, V, 8>(codebook);
    return new EdgeSearch<Shape, V, 16>(codebook);
  }
}

template <class V>
BlockSearch* new_trellis_search(Format format, int n_scales) {
  const std::int8_t* codebook = info(format).codebook;
  switch (format) {
    case Format::t2:
      return new_search_of_shape<TrellisShape<2, 2, 32>, V>(codebook, n_scales);
    case Format::t2_5:
      return new_search_of_shape<TrellisShape<2, 3, 16>, V>(codebook, n_scales);
    case Format::t3:
      return new_search_of_shape<TrellisShape<3, 3, 16>, V>(codebook, n_scales);
    case Format::t3_5:
      return new_search_of_shape<TrellisShape<3, 4, 16>, V>(codebook, n_scales);
    case Format::t4:
    case Format::t4h:
      return new_search_of_shape<TrellisShape<4, 4, 16>, V>(codebook, n_scales);
    case Format::t5:
      return new_search_of_shape<TrellisShape<5, 5, 8>, V>(codebook, n_scales);
    default:
      return nullptr;
  }
}

}  // namespace
}  // namespace r1::quant
