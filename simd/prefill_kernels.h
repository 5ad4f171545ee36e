// Internal to simd/: attention over a page for any way `V` to hold sixteen lanes and any way `D` to multiply groups. A
// tile is some queries by some registers of rows (or of elements): enough sums to hide the latency of a dot product,
// few enough loads to keep it fed. Internal linkage, as in trellis_shape.h.
//
// V gives: Floats, Sum (16 lanes); load, store, set, add, subtract, multiply, fma, maximum; set_sum, to_floats, to_sum
// (to nearest); add_exponent(x, n) with n in the low bits of floats; first_lanes(x, n) (others 0); sum_of, maximum_of.
// D gives: Keys, Query, Weight, Values; load_keys, query, weight, load_values, dot; tile_queries, tile_registers;
// store_weights; largest_weight.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>

#include "simd/prefill_attention.h"

namespace r1::simd {
namespace {

// Lambdas are inlined, so that what they capture stays in registers.
#define R1_INLINE __attribute__((always_inline))

constexpr std::uint32_t prefill_lanes = 16;

// 2^x for x ≤ 0, at least 2^-126. Off by 3 · 10^-6 at most: the polynomial is the best of its degree on [-1/2, 1/2].
template <class V>
[[gnu::always_inline]] inline typename V::Floats prefill_exp2(typename V::Floats x) {
  const auto magic = V::set(12582912.0f);  // 1.5 · 2^23: the sum's low bits are x to nearest
  x = V::maximum(V::set(-126.0f), x);      // in this order NaN stays
  const auto rounded = V::add(x, magic);
  const auto f = V::subtract(x, V::subtract(rounded, magic));
  auto p = V::set(0.00957010201f);
  p = V::fma(p, f, V::set(0.0559178603f));
  p = V::fma(p, f, V::set(0.240247448f));
  p = V::fma(p, f, V::set(0.693121815f));
  p = V::fma(p, f, V::set(0.999999261f));
  return V::add_exponent(p, rounded);
}

// body.operator()<0>() … <N − 1>(): a loop that is unrolled before the compiler decides what stays in registers.
template <int N, class Body>
[[gnu::always_inline]] inline void prefill_unrolled(Body&& body) {
  [&]<int... I>(std::integer_sequence<int, I...>) R1_INLINE {
    (body.template operator()<I>(), ...);
  }
  (std::make_integer_sequence<int, N>());
}

// body.operator()<q, r>() for all queries and registers of a tile.
template <int NQ, int NR, class Body>
[[gnu::always_inline]] inline void prefill_unrolled(Body&& body) {
  prefill_unrolled<NQ * NR>([&]<int I>() R1_INLINE { body.template operator()<I / NR, I % NR>(); });
}

template <class V, class D, int NQ, int NR>
[[gnu::always_inline]] inline void prefill_scores_tile(const PrefillShape& shape, const PrefillQueries& queries,
                                                       const PrefillKeys& keys, std::uint32_t row, float* scores) {
  const std::byte* query = queries.codes;
  const std::size_t query_bytes = queries.row_bytes;
  for (int part = 0; part < shape.parts(); ++part) {
    typename V::Sum sum[NQ][NR];
    prefill_unrolled<NQ, NR>([&]<int q, int r>() R1_INLINE {
      sum[q][r] = V::set_sum(D::key_offset == 0 ? 0 : -D::key_offset * queries.sum[2 * q + part]);
    });
    const std::byte* k = keys.codes[part] + row / prefill_block_rows * keys.block_bytes[part];
    const std::size_t next_register = keys.block_bytes[part];
    const std::byte* x = query;
    for (std::uint32_t group = shape.groups(part); group > 0; --group, k += 64, x += 4) {
      typename D::Keys key[NR];
      prefill_unrolled<NR>([&]<int r>() R1_INLINE { key[r] = D::load_keys(k + r * next_register); });
      prefill_unrolled<NQ>([&]<int q>() R1_INLINE {
        const auto one = D::query(x + q * query_bytes);
        prefill_unrolled<NR>([&]<int r>() R1_INLINE { sum[q][r] = D::dot(sum[q][r], key[r], one); });
      });
    }
    query = x;
    prefill_unrolled<NQ, NR>([&]<int q, int r>() R1_INLINE {
      const std::uint32_t first = row + r * prefill_lanes;
      const auto scale = V::multiply(V::load(keys.scale[part] + first), V::set(queries.scale[2 * q + part]));
      float* out = scores + q * std::size_t{prefill_page_rows} + first;
      V::store(out, part == 0 ? V::multiply(V::to_floats(sum[q][r]), scale)
                              : V::fma(V::to_floats(sum[q][r]), scale, V::load(out)));
    });
  }
}

// out = out · keep + Σ weight · value · step
template <class V, class D, int NQ, int NR>
[[gnu::always_inline]] inline void prefill_values_tile(const PrefillShape& shape, const std::byte* weights,
                                                       std::uint32_t n_groups, const std::byte* values,
                                                       std::uint32_t first, const float* keep, const float* step,
                                                       float* out, std::size_t ldo) {
  constexpr std::size_t row_bytes = prefill_page_rows * D::element_bytes;
  const std::size_t strip_bytes = shape.value_strip_bytes();
  typename V::Sum sum[NQ][NR];
  prefill_unrolled<NQ, NR>([&]<int q, int r>() R1_INLINE { sum[q][r] = V::set_sum(0); });
  const std::byte* v = values + first / prefill_lanes * strip_bytes;
  for (const std::byte* const end = weights + std::size_t{n_groups} * 4; weights != end; weights += 4, v += 64) {
    typename D::Values value[NR];
    prefill_unrolled<NR>([&]<int r>() R1_INLINE { value[r] = D::load_values(v + r * strip_bytes); });
    prefill_unrolled<NQ>([&]<int q>() R1_INLINE {
      const auto w = D::weight(weights + q * row_bytes);
      prefill_unrolled<NR>([&]<int r>() R1_INLINE { sum[q][r] = D::dot(sum[q][r], w, value[r]); });
    });
  }
  prefill_unrolled<NQ, NR>([&]<int q, int r>() R1_INLINE {
    const std::uint32_t begin = first + r * prefill_lanes;
    float* to = out + q * ldo + begin;
    const auto y = V::multiply(V::to_floats(sum[q][r]), V::set(step[q]));
    if (begin + prefill_lanes <= shape.d_v) {
      V::store(to, V::fma(V::load(to), V::set(keep[q]), y));
    } else {
      float tail[prefill_lanes] = {};
      std::memcpy(tail, to, (shape.d_v - begin) * sizeof(float));
      V::store(tail, V::fma(V::load(tail), V::set(keep[q]), y));
      std::memcpy(to, tail, (shape.d_v - begin) * sizeof(float));
    }
  });
}

// How many codes a unit of weight has, and back: 0 where all weights are 0, NaN where one is.
template <class D>
inline void prefill_steps(float largest, float total, float* per_step, float* step) {
  *per_step = *step = total == total && !(largest > 1e-30f) ? 0.0f : total;
  if (!(*step > 0)) return;
  *per_step = D::largest_weight / largest;
  // A page of words may not sum to more, or products with the largest values would leave 32 bits.
  if constexpr (D::element_bytes == 2) *per_step = std::min(*per_step, prefill_word_weights / total);
  *step = 1.0f / *per_step;
}

// Per query: its scores → codes of exp2(score − max) · value scale. What rounding takes or adds is carried over to the
// weight sixteen places on, so that many small weights keep their sum. Bytes' steps follow from the values' scales
// alone; words' need a walk over the weights, which come to lie where the scores were.
//   n_visible [NQ]; columns: a multiple of 16 that holds them all
template <class V, class D, int NQ, bool Whole>
[[gnu::always_inline]] inline void prefill_softmax(float* scores, const std::uint32_t* n_visible, std::uint32_t columns,
                                                   const PrefillValues& values, std::byte* weights, float* max,
                                                   float* sum, float* step) {
  constexpr bool walk_first = D::element_bytes == 2;
  typename V::Floats most[NQ], total[NQ], carry[NQ], per_step[NQ];
  const auto seen = [&]<int q>(typename V::Floats x, std::uint32_t j, float other) R1_INLINE {
    if constexpr (Whole) return x;
    return V::first_lanes(x, static_cast<int>(n_visible[q]) - static_cast<int>(j), other);
  };
  prefill_unrolled<NQ>([&]<int q>() R1_INLINE { most[q] = V::set(prefill_no_max); });
  float* at = scores;
  for (std::uint32_t j = 0; j < columns; j += prefill_lanes, at += prefill_lanes) {
    prefill_unrolled<NQ>([&]<int q>() R1_INLINE {
      const auto x = V::load(at + q * std::size_t{prefill_page_rows});
      most[q] = V::maximum(most[q], seen.template operator()<q>(x, j, prefill_no_max));
    });
  }
  prefill_unrolled<NQ>([&]<int q>() R1_INLINE {
    max[q] = V::maximum_of(most[q]);
    most[q] = V::set(max[q]);
    total[q] = carry[q] = V::set(0.0f);
  });
  if constexpr (walk_first) {
    typename V::Floats heaviest[NQ], weight[NQ];
    prefill_unrolled<NQ>([&]<int q>() R1_INLINE { heaviest[q] = weight[q] = V::set(0.0f); });
    at = scores;
    for (std::uint32_t j = 0; j < columns; j += prefill_lanes, at += prefill_lanes) {
      const auto value_scale = V::load(values.scale + j);
      prefill_unrolled<NQ>([&]<int q>() R1_INLINE {
        float* x = at + q * std::size_t{prefill_page_rows};
        const auto p = seen.template operator()<q>(prefill_exp2<V>(V::subtract(V::load(x), most[q])), j, 0.0f);
        const auto w = seen.template operator()<q>(V::multiply(p, value_scale), j, 0.0f);
        total[q] = V::add(total[q], p);
        weight[q] = V::add(weight[q], w);
        heaviest[q] = V::maximum(heaviest[q], w);
        V::store(x, w);
      });
    }
    prefill_unrolled<NQ>([&]<int q>() R1_INLINE {
      float codes_per_unit = 0;
      prefill_steps<D>(V::maximum_of(heaviest[q]), V::sum_of(weight[q]), &codes_per_unit, step + q);
      per_step[q] = V::set(codes_per_unit);
    });
  } else {
    prefill_unrolled<NQ>([&]<int q>() R1_INLINE {
      const float largest = values.scale_max[n_visible[q] - 1];
      float codes_per_unit = 0;
      prefill_steps<D>(largest, largest, &codes_per_unit, step + q);
      per_step[q] = V::set(codes_per_unit);
    });
  }
  at = scores;
  for (std::uint32_t j = 0; j < columns; j += prefill_lanes, at += prefill_lanes) {
    const auto value_scale = V::load(values.scale + j);
    prefill_unrolled<NQ>([&]<int q>() R1_INLINE {
      auto wanted = V::load(at + q * std::size_t{prefill_page_rows});
      if constexpr (walk_first) {
        wanted = V::fma(wanted, per_step[q], carry[q]);
      } else {
        const auto p = seen.template operator()<q>(prefill_exp2<V>(V::subtract(wanted, most[q])), j, 0.0f);
        total[q] = V::add(total[q], p);
        wanted = V::fma(V::multiply(p, value_scale), per_step[q], carry[q]);
        wanted = seen.template operator()<q>(wanted, j, 0.0f);
      }
      const auto rounded = V::to_sum(wanted);
      carry[q] = V::subtract(wanted, V::to_floats(rounded));
      D::store_weights(weights + (q * std::size_t{prefill_page_rows} + j) * D::element_bytes, rounded);
    });
  }
  prefill_unrolled<NQ>([&]<int q>() R1_INLINE { sum[q] = V::sum_of(total[q]); });
}

template <class V, class D, int NQ>
void prefill_queries(const PrefillShape& shape, const PrefillQueries& queries, const std::uint32_t* n_visible,
                     const PrefillKeys& keys, const PrefillValues& values, const PrefillState& state) {
  alignas(64) float scores[NQ * prefill_page_rows];
  alignas(64) std::byte weights[NQ * prefill_page_rows * D::element_bytes];
  alignas(64) float max[prefill_lanes], sum[prefill_lanes], step[prefill_lanes], keep[prefill_lanes];
  const std::uint32_t columns = (n_visible[NQ - 1] + prefill_lanes - 1) / prefill_lanes * prefill_lanes;

  constexpr std::uint32_t wide = D::tile_registers * prefill_lanes;
  std::uint32_t row = 0;
  for (; row + wide <= columns; row += wide)
    prefill_scores_tile<V, D, NQ, D::tile_registers>(shape, queries, keys, row, scores);
  for (; row < columns; row += prefill_lanes) prefill_scores_tile<V, D, NQ, 1>(shape, queries, keys, row, scores);

  constexpr int at_once = NQ % 4 == 0 ? 4 : 1;
  const bool whole = n_visible[0] == prefill_page_rows;
  for (int q = 0; q < NQ; q += at_once) {
    const auto softmax = whole ? prefill_softmax<V, D, at_once, true> : prefill_softmax<V, D, at_once, false>;
    softmax(scores + static_cast<std::size_t>(q) * prefill_page_rows, n_visible + q, columns, values,
            weights + static_cast<std::size_t>(q) * prefill_page_rows * D::element_bytes, max + q, sum + q, step + q);
  }

  // This page's softmax and the one before become one.
  for (int q = NQ; q < static_cast<int>(prefill_lanes); ++q) max[q] = sum[q] = step[q] = 0;
  float before[2][prefill_lanes] = {};
  std::memcpy(before[0], state.max, NQ * sizeof(float));
  std::memcpy(before[1], state.sum, NQ * sizeof(float));
  const auto old_max = V::load(before[0]), page_max = V::load(max);
  const auto new_max = V::maximum(old_max, page_max);
  const auto kept = prefill_exp2<V>(V::subtract(old_max, new_max));
  const auto added = prefill_exp2<V>(V::subtract(page_max, new_max));
  V::store(before[0], new_max);
  V::store(before[1], V::fma(V::load(before[1]), kept, V::multiply(V::load(sum), added)));
  std::memcpy(state.max, before[0], NQ * sizeof(float));
  std::memcpy(state.sum, before[1], NQ * sizeof(float));
  V::store(keep, kept);
  V::store(step, V::multiply(V::load(step), added));

  const std::uint32_t padded = shape.padded_d_v(), n_groups = columns / (4 / D::element_bytes);
  std::uint32_t first = 0;
  for (; first + wide <= padded; first += wide) {
    prefill_values_tile<V, D, NQ, D::tile_registers>(shape, weights, n_groups, values.codes, first, keep, step,
                                                     state.out, state.ldo);
  }
  for (; first < padded; first += prefill_lanes) {
    prefill_values_tile<V, D, NQ, 1>(shape, weights, n_groups, values.codes, first, keep, step, state.out, state.ldo);
  }
}

template <class V, class D>
void prefill_page_of(const PrefillShape& shape, const PrefillQueries& queries, std::uint32_t n,
                     std::uint32_t first_visible, std::uint32_t queries_per_token, const PrefillKeys& keys,
                     const PrefillValues& values, const PrefillState& state) {
  std::uint32_t at = 0;
  const auto tile = [&]<int NQ>() {
    for (; at + NQ <= n; at += NQ) {
      std::uint32_t n_visible[NQ];
      for (std::uint32_t q = 0; q < NQ; ++q)
        n_visible[q] = std::min(prefill_page_rows, first_visible + (at + q) / queries_per_token);
      const PrefillQueries some{queries.codes + at * queries.row_bytes, queries.row_bytes,
                                queries.scale + 2 * std::size_t{at}, queries.sum + 2 * std::size_t{at}};
      const PrefillState part{state.max + at, state.sum + at, state.out + at * state.ldo, state.ldo};
      prefill_queries<V, D, NQ>(shape, some, n_visible, keys, values, part);
    }
  };
  tile.template operator()<D::tile_queries>();
  if constexpr (D::tile_queries > 4) tile.template operator()<4>();
  tile.template operator()<1>();
}

template <class V, class D8, class D16>
void prefill_page(const PrefillShape& shape, const PrefillQueries& queries, std::uint32_t n,
                  std::uint32_t first_visible, std::uint32_t queries_per_token, const PrefillKeys& keys,
                  const PrefillValues& values, const PrefillState& state) {
  const auto run = shape.kind == PrefillKind::i8 ? prefill_page_of<V, D8> : prefill_page_of<V, D16>;
  run(shape, queries, n, first_visible, queries_per_token, keys, values, state);
}

#undef R1_INLINE

}  // namespace
}  // namespace r1::simd
