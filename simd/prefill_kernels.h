// Internal to simd/: attention over a page for any way `V` to hold sixteen lanes and any way `D` to multiply groups. A
// tile is some queries by some registers of rows (or of elements): enough sums to hide the latency of a dot product,
// few enough loads to keep it fed. Internal linkage, as in trellis_shape.h.
//
// V gives: Floats, Sum (16 lanes); load, store, set, add, subtract, multiply, fma, maximum;
// plus, minus: add and subtract where the units of multiplications have less to do; set_sum, load_sum,
// store_sum, to_floats, to_sum (to nearest); add_exponent(x, n) with n in the low bits of floats, or, instead,
// remainder (what is left of nearest) and scale(x, n), x · 2^n; first_lanes(x, n) (others 0); sum_of, maximum_of. D
// gives: Keys, Query, Weight, Values; load_keys, query, weight, load_values, dot; tile_queries, tile_registers;
// store_weights<i>, of each weights_at_once registers, which may hold some until it has them all; largest_weight. Or,
// instead of the first two lines, tile_k and dots: products by tile registers, of so many elements of each row at a
// time.
//
// D may give dot_queries, how many of a tile's queries share the registers. Units that multiply nothing but words may
// give most_query_bytes and widen: queries of bytes then come to D::query in words, widened once for all keys of a
// page, and D stores weights likewise.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "simd/prefill_attention.h"

namespace r1::simd {
namespace {

// Lambdas are inlined, so that what they capture stays in registers.
#define R1_INLINE __attribute__((always_inline))

constexpr std::uint32_t prefill_lanes = 16;

// 2^f for |f| ≤ 1/2. The polynomial is the best of its degree there: of the fourth, off by 3 · 10^-6 at most; of the
// third, by 8 · 10^-5, a fiftieth of a byte's step.
template <class V, int Degree>
[[gnu::always_inline]] inline typename V::Floats prefill_power(typename V::Floats f) {
  static_assert(Degree == 3 || Degree == 4);
  constexpr bool finer = Degree == 4;
  auto p = V::set(finer ? 0.0559178603f : 0.0551716691f);
  if constexpr (finer) p = V::fma(V::set(0.00957010201f), f, p);
  p = V::fma(p, f, V::set(finer ? 0.240247448f : 0.242611122f));
  p = V::fma(p, f, V::set(finer ? 0.693121815f : 0.693260985f));
  return V::fma(p, f, V::set(finer ? 0.999999261f : 0.999928074f));
}

template <class V>
concept PrefillScalesByPowers = requires(typename V::Floats x) {
  V::scale(x, x);
};

// 2^x for x ≤ 0. What is below 2^-126 is that, or less: no sum or weight shows which.
template <class V, int Degree = 4>
[[gnu::always_inline]] inline typename V::Floats prefill_exp2(typename V::Floats x) {
  if constexpr (PrefillScalesByPowers<V>) {
    const auto f = V::remainder(x);
    return V::scale(prefill_power<V, Degree>(f), V::subtract(x, f));
  } else {
    const auto magic = V::set(12582912.0f);  // 1.5 · 2^23: the sum's low bits are x to nearest
    x = V::maximum(V::set(-126.0f), x);      // in this order NaN stays
    const auto rounded = V::plus(x, magic);
    const auto f = V::minus(x, V::subtract(rounded, magic));
    return V::add_exponent(prefill_power<V, Degree>(f), rounded);
  }
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

template <class D>
concept PrefillWidens = requires {
  D::most_query_bytes;
};

// Of a group of a query or of weights, as D takes them.
template <class D>
constexpr std::size_t prefill_group_bytes = PrefillWidens<D> ? 8 : 4;
template <class D>
constexpr std::size_t prefill_weight_bytes = D::element_bytes* prefill_group_bytes<D> / 4;

// The two products: queries by keys, weights by values. A column is sixteen rows or sixteen elements.
template <class D>
struct PrefillScores {
  static constexpr std::size_t group_bytes = prefill_group_bytes<D>;
  using Column = typename D::Keys;
  static Column load(const std::byte* p) { return D::load_keys(p); }
  static auto one(const std::byte* p) { return D::query(p); }
  template <class Sum, class One>
  static Sum dot(const Sum& sum, const Column& column, const One& one) {
    return D::dot(sum, column, one);
  }
};
template <class D>
struct PrefillMeans {
  static constexpr std::size_t group_bytes = prefill_group_bytes<D>;
  using Column = typename D::Values;
  static Column load(const std::byte* p) { return D::load_values(p); }
  static auto one(const std::byte* p) { return D::weight(p); }
  template <class Sum, class One>
  static Sum dot(const Sum& sum, const Column& column, const One& one) {
    return D::dot(sum, one, column);
  }
};

enum class PrefillProduct : std::uint8_t { scores, means };

template <class D>
concept PrefillByTiles = requires {
  D::tile_k;
};

// Columns come in multiples of this; weights of those that no query sees are 0.
template <class D>
constexpr std::uint32_t prefill_column_step() {
  if constexpr (PrefillByTiles<D>) return D::tile_k;
  return prefill_lanes;
}

// The next ones of a tile's queries find its columns in the first-level cache.
template <class D, int NQ>
constexpr int prefill_dot_queries() {
  if constexpr (requires { D::dot_queries; }) {
    if (NQ % D::dot_queries == 0) return D::dot_queries;
  }
  return NQ;
}

// sums[q, r] = start[q · next_start] + row q · column r. A function of its own: where it was inlined, GCC 12 spilled
// sums around and even in the loop.
//   sums [NQ, NR · 16]
template <class V, class Product, int NQ, int NR>
[[gnu::noinline]] void prefill_dots(const std::byte* rows, std::size_t row_bytes, const std::int32_t* start,
                                    std::size_t next_start, const std::byte* columns, std::size_t next_column,
                                    std::uint32_t n_groups, std::int32_t* sums) {
  typename V::Sum sum[NQ][NR];
  prefill_unrolled<NQ, NR>([&]<int q, int r>() R1_INLINE { sum[q][r] = V::set_sum(start[q * next_start]); });
  for (; n_groups > 0; --n_groups, columns += 64, rows += Product::group_bytes) {
    typename Product::Column column[NR];
    prefill_unrolled<NR>([&]<int r>() R1_INLINE { column[r] = Product::load(columns + r * next_column); });
    prefill_unrolled<NQ>([&]<int q>() R1_INLINE {
      const auto one = Product::one(rows + q * row_bytes);
      prefill_unrolled<NR>([&]<int r>() R1_INLINE { sum[q][r] = Product::dot(sum[q][r], column[r], one); });
    });
  }
  prefill_unrolled<NQ, NR>([&]<int q, int r>()
                               R1_INLINE { V::store_sum(sums + (q * NR + r) * prefill_lanes, sum[q][r]); });
}

// start: two a query, or null: what sums begin with where tiles do not multiply
template <class V, class D, PrefillProduct Product, int NQ, int NR>
[[gnu::always_inline]] inline void prefill_multiply(const std::byte* rows, std::size_t row_bytes,
                                                    const std::int32_t* start, const std::byte* columns,
                                                    std::size_t next_column, std::uint32_t n_groups,
                                                    std::int32_t* sums) {
  if constexpr (PrefillByTiles<D>) {
    D::template dots<Product, NQ, NR>(rows, row_bytes, columns, next_column, n_groups, sums);
  } else {
    constexpr std::int32_t zero = 0;
    constexpr bool is_scores = Product == PrefillProduct::scores;
    constexpr int at_once = prefill_dot_queries<D, NQ>();
    const std::size_t next_start = start != nullptr ? 2 : 0;
    if (start == nullptr) start = &zero;
    for (int q = 0; q < NQ; q += at_once, rows += at_once * row_bytes, start += at_once * next_start) {
      prefill_dots<V, std::conditional_t<is_scores, PrefillScores<D>, PrefillMeans<D>>, at_once, NR>(
          rows, row_bytes, start, next_start, columns, next_column, n_groups, sums + q * NR * prefill_lanes);
    }
  }
}

// Sums of both parts → scores of NR registers of rows, and of them the largest so far.
//   scores [NQ, page rows] from the first of these rows; most [NQ, 16]
template <class V, int NQ, int NR, int Parts, bool Whole>
[[gnu::noinline]] void prefill_scale(const std::int32_t (*sums)[NQ * NR * prefill_lanes], const float* query_scale,
                                     const float* const* key_scale, const std::uint32_t* n_visible, std::uint32_t row,
                                     float* scores, float* most) {
  typename V::Floats scale[NR][Parts];
  prefill_unrolled<NR, Parts>([&]<int r, int part>()
                                  R1_INLINE { scale[r][part] = V::load(key_scale[part] + row + r * prefill_lanes); });
  for (std::uint32_t q = 0; q < NQ; ++q, query_scale += 2, scores += prefill_page_rows, most += prefill_lanes) {
    auto largest = V::load(most);
    prefill_unrolled<NR>([&]<int r>() R1_INLINE {
      typename V::Floats score;
      prefill_unrolled<Parts>([&]<int part>() R1_INLINE {
        const auto sum = V::to_floats(V::load_sum(sums[part] + (q * NR + r) * prefill_lanes));
        const auto step = V::multiply(scale[r][part], V::set(query_scale[part]));
        score = part == 0 ? V::multiply(sum, step) : V::fma(sum, step, score);
      });
      V::store(scores + r * prefill_lanes, score);
      if constexpr (!Whole) {
        const int left = static_cast<int>(n_visible[q]) - static_cast<int>(row) - r * static_cast<int>(prefill_lanes);
        score = V::first_lanes(score, left, prefill_no_max);
      }
      largest = V::maximum(largest, score);
    });
    V::store(most, largest);
  }
}

// The scores of NR registers of rows.
template <class V, class D, int NQ, int NR>
void prefill_scores(const PrefillShape& shape, const PrefillQueries& queries, const PrefillKeys& keys,
                    const std::uint32_t* n_visible, std::uint32_t row, float* scores, float* most) {
  alignas(64) std::int32_t sums[2][NQ * NR * prefill_lanes];
  const std::byte* query = queries.codes;
  for (int part = 0; part < shape.parts(); ++part) {
    prefill_multiply<V, D, PrefillProduct::scores, NQ, NR>(
        query, queries.row_bytes, queries.start != nullptr ? queries.start + part : nullptr,
        keys.codes[part] + row / prefill_block_rows * keys.block_bytes[part], keys.block_bytes[part],
        shape.groups(part), sums[part]);
    query += shape.groups(part) * prefill_group_bytes<D>;
  }
  const bool whole = n_visible[0] >= row + NR * prefill_lanes;
  const auto scale = shape.parts() == 2 ? whole ? prefill_scale<V, NQ, NR, 2, true> : prefill_scale<V, NQ, NR, 2, false>
                     : whole ? prefill_scale<V, NQ, NR, 1, true>
                                        : prefill_scale<V, NQ, NR, 1, false>;
  scale(sums, queries.scale, keys.scale, n_visible, row, scores + row, most);
}

// out = out · keep + Σ weight · value · step, for NR registers of elements from `first` on
template <class V, class D, int NQ, int NR>
void prefill_values(const PrefillShape& shape, const std::byte* weights, std::uint32_t n_groups,
                    const std::byte* values, std::uint32_t first, const float* keep, const float* step, float* out,
                    std::size_t ldo) {
  alignas(64) std::int32_t sums[NQ * NR * prefill_lanes];
  prefill_multiply<V, D, PrefillProduct::means, NQ, NR>(weights, prefill_page_rows * prefill_weight_bytes<D>, nullptr,
                                                        values + first / prefill_lanes * shape.value_strip_bytes(),
                                                        shape.value_strip_bytes(), n_groups, sums);
  out += first;
  const std::int32_t* sum = sums;
  for (int q = 0; q < NQ; ++q, out += ldo, sum += NR * prefill_lanes) {
    prefill_unrolled<NR>([&]<int r>() R1_INLINE {
      float* to = out + r * prefill_lanes;
      const auto y = V::multiply(V::to_floats(V::load_sum(sum + r * prefill_lanes)), V::set(step[q]));
      const std::uint32_t begin = first + r * prefill_lanes;
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
//   scales [columns]: the values' scales; of bytes, if all queries see all columns (Whole), in codes per unit
//   codes_per_unit, step [NQ]: given for bytes, found for words
template <class V, class D, int NQ, bool Whole>
[[gnu::noinline]] void prefill_softmax(float* scores, const std::uint32_t* n_visible, std::uint32_t columns,
                                       const float* scales, const float* max, float* codes_per_unit, float* step,
                                       float* sum, std::byte* weights) {
  constexpr bool walk_first = D::element_bytes == 2;
  typename V::Floats most[NQ], total[NQ], carry[NQ], per_step[NQ];
  const auto seen = [&]<int q>(typename V::Floats x, std::uint32_t j, float other) R1_INLINE {
    if constexpr (Whole) return x;
    return V::first_lanes(x, static_cast<int>(n_visible[q]) - static_cast<int>(j), other);
  };
  prefill_unrolled<NQ>([&]<int q>() R1_INLINE {
    most[q] = V::set(max[q]);
    total[q] = carry[q] = V::set(0.0f);
  });
  if constexpr (walk_first) {
    float* at = scores;
    typename V::Floats heaviest[NQ], weight[NQ];
    prefill_unrolled<NQ>([&]<int q>() R1_INLINE { heaviest[q] = weight[q] = V::set(0.0f); });
    for (std::uint32_t j = 0; j < columns; j += prefill_lanes, at += prefill_lanes) {
      const auto value_scale = V::load(scales + j);
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
      prefill_steps<D>(V::maximum_of(heaviest[q]), V::sum_of(weight[q]), codes_per_unit + q, step + q);
    });
  }
  prefill_unrolled<NQ>([&]<int q>() R1_INLINE { per_step[q] = V::set(codes_per_unit[q]); });
  const auto weigh = [&]<int q>(std::uint32_t j, typename V::Floats scale) R1_INLINE {
    auto wanted = V::load(scores + q * std::size_t{prefill_page_rows} + j);
    if constexpr (walk_first) {
      wanted = V::fma(wanted, per_step[q], carry[q]);
    } else {
      const auto p = seen.template operator()<q>(prefill_exp2<V, 3>(V::subtract(wanted, most[q])), j, 0.0f);
      total[q] = V::plus(total[q], p);
      wanted = V::fma(p, Whole ? scale : V::multiply(scale, per_step[q]), carry[q]);
      wanted = seen.template operator()<q>(wanted, j, 0.0f);
    }
    const auto rounded = V::to_sum(wanted);
    carry[q] = V::minus(wanted, V::to_floats(rounded));
    return rounded;
  };
  for (std::uint32_t j = 0; j < columns; j += D::weights_at_once * prefill_lanes) {
    typename D::HeldWeights held[NQ];
    prefill_unrolled<D::weights_at_once>([&]<int part>() R1_INLINE {
      const std::uint32_t column = j + part * prefill_lanes;
      const auto scale = V::load(scales + column);
      prefill_unrolled<NQ>([&]<int q>() R1_INLINE {
        D::template store_weights<part>(weights + q * prefill_page_rows * prefill_weight_bytes<D>, column,
                                        weigh.template operator()<q>(column, scale), held[q]);
      });
    });
  }
  prefill_unrolled<NQ>([&]<int q>() R1_INLINE { sum[q] = V::sum_of(total[q]); });
}

// Queries as D takes them.
template <class D, int NQ>
struct PrefillWidened {
  alignas(64) std::byte codes[NQ * 2 * D::most_query_bytes];

  PrefillQueries operator()(const PrefillShape& shape, PrefillQueries queries) {
    for (std::size_t q = 0; q < NQ; ++q)
      D::widen(queries.codes + q * queries.row_bytes, shape.query_bytes(), codes + q * 2 * D::most_query_bytes);
    queries.codes = codes;
    queries.row_bytes = 2 * D::most_query_bytes;
    return queries;
  }
};

template <class V, class D, int NQ>
void prefill_queries(const PrefillShape& shape, const PrefillQueries& queries, const std::uint32_t* n_visible,
                     const PrefillKeys& keys, const PrefillValues& values, const PrefillState& state) {
  constexpr bool bytes = D::element_bytes == 1;
  constexpr std::uint32_t column_step = prefill_column_step<D>();
  constexpr int state_lanes = (NQ + 15) / 16 * 16;
  alignas(64) float scores[NQ * prefill_page_rows], most[NQ * prefill_lanes], codes_per_row[prefill_page_rows];
  alignas(64) std::byte weights[NQ * prefill_page_rows * prefill_weight_bytes<D>];
  alignas(64) float max[state_lanes], sum[state_lanes], step[state_lanes], keep[state_lanes];
  float codes_per_unit[NQ];
  const std::uint32_t columns = (n_visible[NQ - 1] + column_step - 1) / column_step * column_step;

  std::fill_n(most, NQ * prefill_lanes, prefill_no_max);
  constexpr std::uint32_t wide = D::tile_registers * prefill_lanes;
  std::uint32_t row = 0;
  for (; row + wide <= columns; row += wide)
    prefill_scores<V, D, NQ, D::tile_registers>(shape, queries, keys, n_visible, row, scores, most);
  for (; row < columns; row += prefill_lanes)
    prefill_scores<V, D, NQ, 1>(shape, queries, keys, n_visible, row, scores, most);
  for (std::uint32_t q = 0; q < NQ; ++q) max[q] = V::maximum_of(V::load(most + q * prefill_lanes));

  const bool whole = n_visible[0] == prefill_page_rows;
  const float* scales = values.scale;
  if constexpr (bytes) {
    for (std::uint32_t q = 0; q < NQ; ++q) {
      const float largest = values.scale_max[n_visible[q] - 1];
      if (q > 0 && n_visible[q] == n_visible[q - 1]) {
        codes_per_unit[q] = codes_per_unit[q - 1];
        step[q] = step[q - 1];
      } else {
        prefill_steps<D>(largest, largest, codes_per_unit + q, step + q);
      }
    }
    if (whole) {
      for (std::uint32_t j = 0; j < columns; j += prefill_lanes)
        V::store(codes_per_row + j, V::multiply(V::load(values.scale + j), V::set(codes_per_unit[0])));
      scales = codes_per_row;
    }
  }
  constexpr int at_once = NQ % 4 == 0 ? 4 : 1;
  const auto softmax = whole ? prefill_softmax<V, D, at_once, true> : prefill_softmax<V, D, at_once, false>;
  for (int q = 0; q < NQ; q += at_once) {
    softmax(scores + static_cast<std::size_t>(q) * prefill_page_rows, n_visible + q, columns, scales, max + q,
            codes_per_unit + q, step + q, sum + q,
            weights + static_cast<std::size_t>(q) * prefill_page_rows * prefill_weight_bytes<D>);
  }

  // This page's softmax and the one before become one.
  for (int q = NQ; q < state_lanes; ++q) max[q] = sum[q] = step[q] = 0;
  float before[2][state_lanes] = {};
  std::memcpy(before[0], state.max, NQ * sizeof(float));
  std::memcpy(before[1], state.sum, NQ * sizeof(float));
  for (std::uint32_t q = 0; q < state_lanes; q += prefill_lanes) {
    const auto old_max = V::load(before[0] + q), page_max = V::load(max + q);
    const auto new_max = V::maximum(old_max, page_max);
    const auto kept = prefill_exp2<V>(V::subtract(old_max, new_max));
    const auto added = prefill_exp2<V>(V::subtract(page_max, new_max));
    V::store(before[0] + q, new_max);
    V::store(before[1] + q, V::fma(V::load(before[1] + q), kept, V::multiply(V::load(sum + q), added)));
    V::store(keep + q, kept);
    V::store(step + q, V::multiply(V::load(step + q), added));
  }
  std::memcpy(state.max, before[0], NQ * sizeof(float));
  std::memcpy(state.sum, before[1], NQ * sizeof(float));

  const std::uint32_t padded = shape.padded_d_v(), n_groups = columns / (4 / D::element_bytes);
  std::uint32_t first = 0;
  for (; first + wide <= padded; first += wide) {
    prefill_values<V, D, NQ, D::tile_registers>(shape, weights, n_groups, values.codes, first, keep, step, state.out,
                                                state.ldo);
  }
  for (; first < padded; first += prefill_lanes) {
    prefill_values<V, D, NQ, 1>(shape, weights, n_groups, values.codes, first, keep, step, state.out, state.ldo);
  }
}

// The rows that queries at … at + NQ − 1 see.
template <int NQ>
void prefill_visible(std::uint32_t first_visible, std::uint32_t at, std::uint32_t queries_per_token,
                     std::uint32_t* n_visible) {
  // Most queries see whole pages, and divisions would take longer than they do.
  if (first_visible >= prefill_page_rows) {
    std::fill_n(n_visible, NQ, prefill_page_rows);
    return;
  }
  for (std::uint32_t q = 0; q < NQ; ++q)
    n_visible[q] = std::min(prefill_page_rows, first_visible + (at + q) / queries_per_token);
}

// As many queries at a time as D's tiles hold, then sixteen; the rest by Rest. Returns how many were left where that is
// void.
template <class V, class D, class Rest = D>
std::uint32_t prefill_page_of(const PrefillShape& shape, const PrefillQueries& queries, std::uint32_t n,
                              std::uint32_t first_visible, std::uint32_t queries_per_token, const PrefillKeys& keys,
                              const PrefillValues& values, const PrefillState& state) {
  std::uint32_t at = 0;
  const auto tile = [&]<class By, int NQ>() {
    for (; at + NQ <= n; at += NQ) {
      std::uint32_t n_visible[NQ];
      prefill_visible<NQ>(first_visible, at, queries_per_token, n_visible);
      const PrefillQueries some{queries.codes + at * queries.row_bytes, queries.row_bytes,
                                queries.scale + 2 * std::size_t{at}, queries.start + 2 * std::size_t{at}};
      const PrefillState part{state.max + at, state.sum + at, state.out + at * state.ldo, state.ldo};
      if constexpr (PrefillWidens<By>) {
        PrefillWidened<By, NQ> widened;
        prefill_queries<V, By, NQ>(shape, widened(shape, some), n_visible, keys, values, part);
      } else {
        prefill_queries<V, By, NQ>(shape, some, n_visible, keys, values, part);
      }
    }
  };
  if constexpr (PrefillByTiles<D>) {
    tile.template operator()<D, D::tile_queries>();
    if constexpr (D::tile_queries > prefill_lanes) tile.template operator()<D, prefill_lanes>();
  }
  if constexpr (!std::is_void_v<Rest>) {
    tile.template operator()<Rest, Rest::tile_queries>();
    if constexpr (Rest::tile_queries > 4) tile.template operator()<Rest, 4>();
    tile.template operator()<Rest, 1>();
  }
  return n - at;
}

// Narrow8 takes queries that are wider than D8 widens.
template <class V, class D8, class D16, class Narrow8 = D8>
void prefill_page(const PrefillShape& shape, const PrefillQueries& queries, std::uint32_t n,
                  std::uint32_t first_visible, std::uint32_t queries_per_token, const PrefillKeys& keys,
                  const PrefillValues& values, const PrefillState& state) {
  auto run = shape.kind == PrefillKind::i8 ? prefill_page_of<V, D8> : prefill_page_of<V, D16>;
  if constexpr (PrefillWidens<D8>) {
    if (shape.kind == PrefillKind::i8 && shape.query_bytes() > D8::most_query_bytes) run = prefill_page_of<V, Narrow8>;
  }
  run(shape, queries, n, first_visible, queries_per_token, keys, values, state);
}

#undef R1_INLINE

}  // namespace
}  // namespace r1::simd
