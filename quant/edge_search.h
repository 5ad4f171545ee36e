// Internal to trellis_search.h: formats in which one code at most leads from one state to another (t2, t2_5, t3). All
// of the work is in visiting 64 codes a weight, twice.
//
// Pass 1 takes every scale. Its cost is a lower bound of what the scale can reach: pass 2 takes the better half of the
// scales, each from two boundary states, in as many lanes.
#pragma once

#include "quant/trellis_search.h"

namespace r1::quant {
namespace {

template <class Shape, class V, int NScales>
class EdgeSearch final : public BlockSearch {
 public:
  explicit EdgeSearch(const std::int8_t* codebook) {
    for (int code = 0; code < 64; ++code) {
      value_[code] = static_cast<float>(codebook[code]);
      values_[code] = V::broadcast(value_[code]);
    }
  }

  void run(BlockQuery* queries, int n_queries) override {
    for (int q = 0; q < n_queries; q += Share::n_blocks) {
      const int n_blocks = n_queries - q < Share::n_blocks ? n_queries - q : Share::n_blocks;
      load(queries + q, n_blocks);
      for (int r = 0; r < Share::n_runs; ++r) first_pass(r);
      for (int b = 0; b < Share::n_blocks; ++b) choose_scales(b);
      for (int r = 0; r < Share::n_runs; ++r) {
        second_pass(r);
        for (int b = 0; b < n_blocks; ++b) take_best(r, b, queries[q + b]);
      }
    }
  }

 private:
  using Share = LaneShare<V, NScales>;
  static constexpr int n_chosen = NScales / 2;

  // Lanes without a block of their own repeat the last one.
  void load(const BlockQuery* queries, int n_blocks) {
    for (int b = 0; b < Share::n_blocks; ++b) block_[b] = queries + (b < n_blocks ? b : n_blocks - 1);
    for (int i = 0; i < k_of_block; ++i) {
      float w[Share::n_blocks];
      for (int b = 0; b < Share::n_blocks; ++b) {
        w[b] = block_[b]->w[i];
        slopes_[i * Share::n_blocks + b] = -2.0f * w[b] * block_[b]->x[i];
      }
      float* weighted = squares_ + i * 64 * Share::n_blocks;
      for (int code = 0; code < 64; ++code) {
        for (int b = 0; b < Share::n_blocks; ++b)
          weighted[code * Share::n_blocks + b] = w[b] * (value_[code] * value_[code]);
      }
    }
  }

  void set_scales(const float* scales) {
    float inverse[V::n];
    for (int l = 0; l < V::n; ++l) inverse[l] = 1.0f / scales[l];
    const V inv = V::load(inverse);
    for (int i = 0; i < k_of_block; ++i)
      slope_[i] = mul(V::template spread<Share::n_blocks>(slopes_ + i * Share::n_blocks), inv);
  }

  void first_pass(int r) {
    float scales[V::n];
    for (int l = 0; l < V::n; ++l) scales[l] = block_[Share::block(l)]->scales[Share::place(r, l)];
    set_scales(scales);
    constexpr int n = Shape::group_weights, half = n / 2;
    V total = V::broadcast(0);
    for (int g = 0; g < Shape::n_groups; ++g) {
      V ends[2][Shape::max_states], heads[2][Shape::max_states], through[Shape::n_boundary_states];
      for (int s = 0; s < Shape::max_states; ++s) ends[0][s] = heads[0][s] = V::broadcast(0);
      for (int i = 0; i < half; ++i) {
        forward(g, n - half + i, ends[i & 1], ends[~i & 1]);
        backward(g, half - 1 - i, heads[i & 1], heads[~i & 1]);
      }
      for (int s = 0; s < Shape::n_boundary_states; ++s) through[s] = add(ends[half & 1][s], heads[half & 1][s]);
      const BestTwo<V> best = best_two<Shape::n_boundary_states>(through);
      total = add(total, best.cost);
      float state[V::n], second[V::n];
      best.state.store(state);
      best.second_state.store(second);
      for (int l = 0; l < V::n; ++l) {
        std::uint8_t* states = state_[Share::block(l)][Share::place(r, l)][g];
        states[0] = static_cast<std::uint8_t>(state[l]);
        states[1] = static_cast<std::uint8_t>(second[l]);
      }
    }
    const V s = V::load(scales);
    float bound[V::n];
    mul(mul(s, s), total).store(bound);
    for (int l = 0; l < V::n; ++l) bound_[Share::block(l)][Share::place(r, l)] = bound[l];
  }

  // The half with the lower bounds, in their order.
  void choose_scales(int b) {
    int n = 0;
    for (int i = 0; i < NScales; ++i) {
      int rank = 0;
      for (int j = 0; j < NScales; ++j)
        rank += static_cast<int>(bound_[b][j] < bound_[b][i]) + static_cast<int>(bound_[b][j] == bound_[b][i] && j < i);
      if (rank < n_chosen) chosen_[b][n++] = static_cast<std::uint8_t>(i);
    }
  }

  // Lanes are pairs: a chosen scale from its best boundary states, from its second best ones.
  void second_pass(int r) {
    float scales[V::n];
    for (int l = 0; l < V::n; ++l) {
      const int b = Share::block(l);
      scales[l] = block_[b]->scales[chosen_[b][Share::place(r, l) / 2]];
    }
    set_scales(scales);
    for (int g = 0; g < Shape::n_groups; ++g) {
      V* start = costs_[g][0];
      for (int s = 0; s < Shape::n_boundary_states; ++s) start[s] = V::broadcast(unreachable);
      for (int l = 0; l < V::n; ++l) {
        const int b = Share::block(l), place = Share::place(r, l);
        boundary_[g][l] = state_[b][chosen_[b][place / 2]][g][place & 1];
        set_lane(start[boundary_[g][l]], l, 0);
      }
      for (int t = 0; t < Shape::group_weights; ++t) forward(g, t, costs_[g][t], costs_[g][t + 1]);
    }
  }

  void take_best(int r, int b, BlockQuery& query) {
    int best_lane = -1;
    std::uint8_t best_second[Shape::n_groups] = {};
    for (int pair = 0; pair < Share::lanes_per_block / 2; ++pair) {
      const int lane = b * Share::lanes_per_block + 2 * pair;
      float total = 0;
      std::uint8_t second[Shape::n_groups];
      for (int g = 0; g < Shape::n_groups; ++g) {
        const float costs[2] = {end_cost(g, lane), end_cost(g, lane + 1)};
        second[g] = static_cast<std::uint8_t>(costs[1] < costs[0]);
        total += costs[second[g]];
      }
      const int candidate = chosen_[b][Share::place(r, lane) / 2];
      const float scale = query.scales[candidate], cost = scale * scale * total;
      const bool is_first = r == 0 && pair == 0;
      if (!is_first && cost >= query.cost) continue;
      query.candidate = candidate;
      query.cost = cost;
      best_lane = lane;
      for (int g = 0; g < Shape::n_groups; ++g) best_second[g] = second[g];
    }
    if (best_lane < 0) return;
    for (int g = 0; g < Shape::n_groups; ++g) trace(g, b, best_lane + best_second[g], query.codes);
  }

  float end_cost(int g, int lane) const { return lane_of(costs_[g][Shape::group_weights][boundary_[g][lane]], lane); }

  // Codes of a lane's best path through a group, from the end; ties to the lower code.
  void trace(int g, int b, int lane, std::uint8_t* codes) const {
    int state = boundary_[g][lane];
    for (int t = Shape::group_weights - 1; t >= 0; --t) {
      const int k = Shape::step(t), mask = Shape::n_states_after(t + 1) - 1;
      const int i = g * Shape::group_weights + t;
      const float slope = lane_of(slope_[i], lane);
      const float* weighted = squares_ + i * 64 * Share::n_blocks + b;
      float best = 0;
      int best_code = -1;
      for (int j = 0; j < 1 << k; ++j) {
        const int code = state << k | j;
        const float cost = __builtin_fmaf(value_[code], slope, weighted[code * Share::n_blocks]) +
                           lane_of(costs_[g][t][code & mask], lane);
        if (best_code < 0 || cost < best) {
          best = cost;
          best_code = code;
        }
      }
      codes[i] = static_cast<std::uint8_t>(best_code);
      state = best_code & mask;
    }
  }

  // Cheapest way into each state behind weight t, from the costs of the states before it. The parity of t decides the
  // steps; all else is data.
  void forward(int g, int t, const V* before, V* after) const {
    if (t & 1) {
      forward_at<1>(g * Shape::group_weights + t, before, after);
    } else {
      forward_at<0>(g * Shape::group_weights + t, before, after);
    }
  }
  // Cheapest way from each state before weight t to the end, from the costs of the states behind it.
  void backward(int g, int t, const V* after, V* before) const {
    if (t & 1) {
      backward_at<1>(g * Shape::group_weights + t, after, before);
    } else {
      backward_at<0>(g * Shape::group_weights + t, after, before);
    }
  }

  // Behind the codes s·2^k … of a state s lie 2^k states; those of s + 1, s + 2 … follow until all are used.
  template <int Parity>
  void forward_at(int i, const V* before, V* after) const {
    constexpr int k = Shape::step(Parity), n_codes = 1 << k;
    constexpr int n_sets = Shape::n_states_after(Parity + 1) >> k;
    const V slope = slope_[i];
    const float* weighted = squares_ + i * 64 * Share::n_blocks;
    for (int set = 0; set < n_sets; ++set) {
      V from[n_codes];
#pragma GCC unroll 8
      for (int j = 0; j < n_codes; ++j) from[j] = before[set * n_codes + j];
      for (int s = set; s < Shape::n_states_after(Parity); s += n_sets) {
        after[s] = cheapest<n_codes>([&](int j) { return add(code_cost(s * n_codes + j, slope, weighted), from[j]); });
      }
    }
  }

  template <int Parity>
  void backward_at(int i, const V* after, V* before) const {
    constexpr int k = Shape::step(Parity), n_before = Shape::n_states_after(Parity + 1), n_sets = n_before >> k;
    constexpr int n_codes = 64 / n_before;
    const V slope = slope_[i];
    const float* weighted = squares_ + i * 64 * Share::n_blocks;
    for (int set = 0; set < n_sets; ++set) {
      V to[n_codes];
#pragma GCC unroll 8
      for (int j = 0; j < n_codes; ++j) to[j] = after[j * n_sets + set];
      for (int s = set << k; s < (set + 1) << k; ++s) {
        before[s] = cheapest<n_codes>([&](int j) { return add(code_cost(j * n_before + s, slope, weighted), to[j]); });
      }
    }
  }

  [[gnu::always_inline]] V code_cost(int code, V slope, const float* weighted) const {
    return fma(values_[code], slope, V::template spread<Share::n_blocks>(weighted + code * Share::n_blocks));
  }

  V values_[64];
  V slope_[k_of_block];
  V costs_[Shape::n_groups][Shape::group_weights + 1][Shape::max_states];  // of pass 2, by state
  alignas(64) float squares_[k_of_block * 64 * Share::n_blocks];           // w·c² [32, 64, n_blocks]
  float slopes_[k_of_block * Share::n_blocks];                             // −2·w·x [32, n_blocks]
  float value_[64];
  float bound_[Share::n_blocks][NScales];
  std::uint8_t state_[Share::n_blocks][NScales][Shape::n_groups][2];
  std::uint8_t chosen_[Share::n_blocks][n_chosen];
  std::uint8_t boundary_[Shape::n_groups][V::n];
  const BlockQuery* block_[Share::n_blocks];
};

}  // namespace
}  // namespace r1::quant
