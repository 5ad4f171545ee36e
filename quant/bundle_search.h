// Internal to trellis_search.h: formats in which several codes lead from one state to the same other one (t3_5, t4,
// t5). The cheapest of each such bundle does not depend on the path: it is found once for all passes, which are cheap
// then, so every scale is searched from two boundary states.
//
// Where bundles are few and wide (t5), the nearest of their values is looked up: midpoints of integers are multiples of
// one half, so a table over halves decides.
#pragma once

#include "quant/trellis_search.h"

namespace r1::quant {
namespace {

template <class Shape, class V, int NScales>
class BundleSearch final : public BlockSearch {
 public:
  explicit BundleSearch(const std::int8_t* codebook) {
    for (int code = 0; code < 64; ++code) {
      value_[code] = static_cast<float>(codebook[code]);
      values_[code] = V::broadcast(value_[code]);
      squares_[code] = V::broadcast(value_[code] * value_[code]);
    }
    if constexpr (by_table) make_tables(codebook);
  }

  void run(BlockQuery* queries, int n_queries) override {
    for (int q = 0; q < n_queries; q += Share::n_blocks) {
      const int n_blocks = n_queries - q < Share::n_blocks ? n_queries - q : Share::n_blocks;
      load(queries + q, n_blocks);
      for (int r = 0; r < Share::n_runs; ++r) {
        set_scales(r);
        search_groups();
        for (int b = 0; b < n_blocks; ++b) take_best(r, b, queries[q + b]);
      }
    }
  }

 private:
  using Share = LaneShare<V, NScales>;
  // (before, behind) pairs of states, and the codes of each.
  static constexpr int n_bundles = 1 << (12 - Shape::step(0) - Shape::step(1));
  static constexpr int n_in_bundle = 64 / n_bundles;
  static constexpr bool by_table = n_bundles == 4;
  static constexpr int n_halves = 256;

  static int bundle_code(int k, int before_bits, int bundle, int n_after, int j) {
    return (bundle % n_after) << k | j << before_bits | bundle / n_after;
  }

  void make_tables(const std::int8_t* codebook) {
    constexpr int k = Shape::step(0), before_bits = 6 - k, n_after = 1 << before_bits;
    for (int i = 0; i < n_halves; ++i) {
      const float middle = (static_cast<float>(i) + 0.5f) / 2 - 64;
      std::uint32_t bytes = 0;
      for (int bundle = 0; bundle < n_bundles; ++bundle) {
        float least = 1000;
        for (int j = 0; j < n_in_bundle; ++j) {
          const int code = bundle_code(k, before_bits, bundle, n_after, j);
          const float difference = value_[code] - middle, distance = difference < 0 ? -difference : difference;
          if (distance >= least) continue;
          least = distance;
          nearest_code_[i][bundle] = static_cast<std::uint8_t>(code);
        }
        bytes |= std::uint32_t{static_cast<std::uint8_t>(codebook[nearest_code_[i][bundle]])} << (8 * bundle);
      }
      nearest_values_[i] = static_cast<std::int32_t>(bytes);
    }
  }

  // Lanes without a block of their own repeat the last one.
  void load(const BlockQuery* queries, int n_blocks) {
    for (int b = 0; b < Share::n_blocks; ++b) block_[b] = queries + (b < n_blocks ? b : n_blocks - 1);
    for (int i = 0; i < k_of_block; ++i) {
      for (int b = 0; b < Share::n_blocks; ++b) {
        slopes_[i * Share::n_blocks + b] = -2.0f * block_[b]->x[i];
        weights_[i * Share::n_blocks + b] = block_[b]->w[i];
      }
    }
  }

  void set_scales(int r) {
    float inverse[V::n];
    for (int l = 0; l < V::n; ++l) inverse[l] = 1.0f / block_[Share::block(l)]->scales[Share::place(r, l)];
    const V inv = V::load(inverse);
    for (int i = 0; i < k_of_block; ++i)
      slope_[i] = mul(V::template spread<Share::n_blocks>(slopes_ + i * Share::n_blocks), inv);
  }

  void search_groups() {
    constexpr int n = Shape::group_weights;
    for (int g = 0; g < Shape::n_groups; ++g) {
      for (int t = 0; t < n; ++t) t & 1 ? find_bundles<1>(g, t) : find_bundles<0>(g, t);
      first_pass(g);
      for (int rank = 0; rank < 2; ++rank) {
        V* start = costs_[rank][g][0];
        for (int s = 0; s < Shape::n_boundary_states; ++s) start[s] = V::broadcast(unreachable);
        for (int l = 0; l < V::n; ++l) set_lane(start[boundary_[rank][g][l]], l, 0);
        for (int t = 0; t < n; ++t) forward(g, t, costs_[rank][g][t], costs_[rank][g][t + 1]);
      }
    }
  }

  void first_pass(int g) {
    if constexpr (Shape::n_boundary_states == 2) {
      for (int l = 0; l < V::n; ++l) {
        boundary_[0][g][l] = 0;
        boundary_[1][g][l] = 1;
      }
    } else {
      constexpr int n = Shape::group_weights, half = n / 2;
      V ends[2][Shape::max_states], heads[2][Shape::max_states], through[Shape::n_boundary_states];
      for (int s = 0; s < Shape::max_states; ++s) ends[0][s] = heads[0][s] = V::broadcast(0);
      for (int i = 0; i < half; ++i) {
        forward(g, n - half + i, ends[i & 1], ends[~i & 1]);
        backward(g, half - 1 - i, heads[i & 1], heads[~i & 1]);
      }
      for (int s = 0; s < Shape::n_boundary_states; ++s) through[s] = add(ends[half & 1][s], heads[half & 1][s]);
      const BestTwo<V> best = best_two<Shape::n_boundary_states>(through);
      float state[V::n], second[V::n];
      best.state.store(state);
      best.second_state.store(second);
      for (int l = 0; l < V::n; ++l) {
        boundary_[0][g][l] = static_cast<std::uint8_t>(state[l]);
        boundary_[1][g][l] = static_cast<std::uint8_t>(second[l]);
      }
    }
  }

  void take_best(int r, int b, BlockQuery& query) {
    int best_lane = -1;
    std::uint8_t best_rank[Shape::n_groups] = {};
    for (int lane = b * Share::lanes_per_block; lane < (b + 1) * Share::lanes_per_block; ++lane) {
      float total = 0;
      std::uint8_t rank[Shape::n_groups];
      for (int g = 0; g < Shape::n_groups; ++g) {
        const float costs[2] = {end_cost(0, g, lane), end_cost(1, g, lane)};
        rank[g] = static_cast<std::uint8_t>(costs[1] < costs[0]);
        total += costs[rank[g]];
      }
      const int candidate = Share::place(r, lane);
      const float scale = query.scales[candidate], cost = scale * scale * total;
      if (candidate > 0 && cost >= query.cost) continue;
      query.candidate = candidate;
      query.cost = cost;
      best_lane = lane;
      for (int g = 0; g < Shape::n_groups; ++g) best_rank[g] = rank[g];
    }
    if (best_lane < 0) return;
    for (int g = 0; g < Shape::n_groups; ++g) trace(best_rank[g], g, best_lane, query.codes);
  }

  float end_cost(int rank, int g, int lane) const {
    return lane_of(costs_[rank][g][Shape::group_weights][boundary_[rank][g][lane]], lane);
  }

  // Codes of a lane's best path through a group, from the end; ties to the lower state, then to the lower code.
  void trace(int rank, int g, int lane, std::uint8_t* codes) const {
    int state = boundary_[rank][g][lane];
    for (int t = Shape::group_weights - 1; t >= 0; --t) {
      const int n_before = Shape::n_states_after(t + 1), n_after = Shape::n_states_after(t);
      int bundle = state;
      float best = 0;
      for (int j = 0; j < n_before; ++j) {
        const float cost = lane_of(bundle_[g][t][j * n_after + state], lane) + lane_of(costs_[rank][g][t][j], lane);
        if (j > 0 && cost >= best) continue;
        best = cost;
        bundle = j * n_after + state;
      }
      const int i = g * Shape::group_weights + t;
      codes[i] = static_cast<std::uint8_t>(best_code(t, bundle, lane_of(slope_[i], lane)));
      state = bundle / n_after;
    }
  }

  int best_code(int t, int bundle, float slope) const {
    if constexpr (by_table) {
      const float index = 128.0f - slope, inside = index > 0 ? (index < 255 ? index : 255) : 0;
      return nearest_code_[static_cast<int>(inside)][bundle];
    } else {
      const int k = Shape::step(t), before_bits = 6 - Shape::step(t + 1), n_after = Shape::n_states_after(t);
      float best = 0;
      int best_code = -1;
      for (int j = 0; j < n_in_bundle; ++j) {
        const int code = bundle_code(k, before_bits, bundle, n_after, j);
        const float cost = __builtin_fmaf(value_[code], slope, value_[code] * value_[code]);
        if (best_code >= 0 && cost >= best) continue;
        best = cost;
        best_code = code;
      }
      return best_code;
    }
  }

  // bundle_[g][t]: the cost of the cheapest code from each state before weight t to each behind it.
  template <int Parity>
  void find_bundles(int g, int t) {
    constexpr int k = Shape::step(Parity), before_bits = 6 - Shape::step(Parity + 1);
    constexpr int n_before = 1 << before_bits, n_after = Shape::n_states_after(Parity);
    const int i = g * Shape::group_weights + t;
    const V w = V::template spread<Share::n_blocks>(weights_ + i * Share::n_blocks), slope = slope_[i];
    V* bundle = bundle_[g][t];
    if constexpr (by_table) {
      const auto nearest = V::lookup(nearest_values_, add(V::broadcast(128), mul(slope, V::broadcast(-1))));
      const auto cost = [&](V value) { return mul(w, mul(value, add(value, slope))); };
      bundle[0] = cost(V::template byte<0>(nearest));
      bundle[1] = cost(V::template byte<1>(nearest));
      bundle[2] = cost(V::template byte<2>(nearest));
      bundle[3] = cost(V::template byte<3>(nearest));
    } else {
      for (int b = 0; b < n_before; ++b) {
        for (int s = 0; s < n_after; ++s) {
          bundle[b * n_after + s] = mul(w, cheapest<n_in_bundle>([&](int j) {
                                          const int code = s << k | j << before_bits | b;
                                          return fma(values_[code], slope, squares_[code]);
                                        }));
        }
      }
    }
  }

  // Cheapest way into each state behind weight t, from the costs of the states before it.
  void forward(int g, int t, const V* before, V* after) const {
    if (t & 1) {
      forward_at<1>(bundle_[g][t], before, after);
    } else {
      forward_at<0>(bundle_[g][t], before, after);
    }
  }
  // Cheapest way from each state before weight t to the end, from the costs of the states behind it.
  void backward(int g, int t, const V* after, V* before) const {
    if (t & 1) {
      backward_at<1>(bundle_[g][t], after, before);
    } else {
      backward_at<0>(bundle_[g][t], after, before);
    }
  }

  template <int Parity>
  static void forward_at(const V* bundle, const V* before, V* after) {
    constexpr int n_before = Shape::n_states_after(Parity + 1), n_after = Shape::n_states_after(Parity);
    V from[n_before];
#pragma GCC unroll 8
    for (int j = 0; j < n_before; ++j) from[j] = before[j];
    for (int s = 0; s < n_after; ++s)
      after[s] = cheapest<n_before>([&](int j) { return add(bundle[j * n_after + s], from[j]); });
  }

  template <int Parity>
  static void backward_at(const V* bundle, const V* after, V* before) {
    constexpr int n_before = Shape::n_states_after(Parity + 1), n_after = Shape::n_states_after(Parity);
    V to[n_after];
#pragma GCC unroll 8
    for (int j = 0; j < n_after; ++j) to[j] = after[j];
    for (int s = 0; s < n_before; ++s)
      before[s] = cheapest<n_after>([&](int j) { return add(bundle[s * n_after + j], to[j]); });
  }

  V values_[64], squares_[64];
  V slope_[k_of_block];                                                       // −2·x/s
  V bundle_[Shape::n_groups][Shape::group_weights][n_bundles];                // [before · n_after + behind]
  V costs_[2][Shape::n_groups][Shape::group_weights + 1][Shape::max_states];  // of pass 2, by state
  float slopes_[k_of_block * Share::n_blocks];                                // −2·x [32, n_blocks]
  float weights_[k_of_block * Share::n_blocks];                               // w [32, n_blocks]
  float value_[64];
  std::int32_t nearest_values_[n_halves];  // of each bundle, a byte each
  std::uint8_t nearest_code_[n_halves][4];
  std::uint8_t boundary_[2][Shape::n_groups][V::n];
  const BlockQuery* block_[Share::n_blocks];
};

}  // namespace
}  // namespace r1::quant
