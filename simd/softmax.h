// Internal to simd/: the softmax of attention, for 16 floats at a time in any registers. Internal linkage, as in
// trellis_shape.h. The order of operations is fixed: all instruction sets give the same bits.
//
// V gives: Floats (16); load, load_some(p, n, fill), store, set, add, subtract, multiply, fma; max (of NaN and a
// number: the second argument); round (to nearest even); power_of_2 (of integers); zero_where_less(x, a, y): y, or 0
// where a < x; sum_lanes, max_lanes; load_halves(a, b): eight floats of each; store_byte_halves(x, a, b): integers,
// clamped to bytes, eight to each. `chains`: how many dependent chains hide the latency of a conversion.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

namespace r1::simd {
namespace {

constexpr std::uint32_t softmax_lanes = 16;

// exp(x), x ≤ 0, within 2 units of the last place; 0 where it is not a normal number. Cephes' expf: x = n ln 2 + r,
// |r| ≤ ln 2 / 2, and a polynomial in r (www.netlib.org/cephes, single/expf.c).
template <class V>
[[gnu::always_inline]] inline typename V::Floats exp_of(typename V::Floats x) {
  const auto least = V::set(-87.336544f);
  const auto bounded = V::max(least, x);
  const auto n = V::round(V::multiply(bounded, V::set(1.44269504f)));
  const auto r = V::fma(n, V::set(2.12194440e-4f), V::fma(n, V::set(-0.693359375f), bounded));
  auto y = V::fma(V::set(1.9875691500e-4f), r, V::set(1.3981999507e-3f));
  y = V::fma(y, r, V::set(8.3334519073e-3f));
  y = V::fma(y, r, V::set(4.1665795894e-2f));
  y = V::fma(y, r, V::set(1.6666665459e-1f));
  y = V::fma(y, r, V::set(5.0000001201e-1f));
  y = V::add(V::fma(y, V::multiply(r, r), r), V::set(1.0f));
  return V::zero_where_less(least, x, V::multiply(y, V::power_of_2(n)));
}

template <class V>
[[gnu::always_inline]] inline float largest(const float* x, std::uint32_t n, float at_least) {
  auto most = V::set(at_least);
  std::uint32_t i = 0;
  for (; i + softmax_lanes <= n; i += softmax_lanes) most = V::max(most, V::load(x + i));
  if (i < n) most = V::max(most, V::load_some(x + i, n - i, at_least));
  return V::max_lanes(most);
}

// Kernels::softmax_part
template <class V>
float softmax_part(float* x, std::size_t n_values, float at_least, float* max_out) {
  const auto n = static_cast<std::uint32_t>(n_values);
  const float max = largest<V>(x, n, at_least);
  *max_out = max;
  auto sums = V::set(0);
  std::uint32_t i = 0;
  for (; i + softmax_lanes <= n; i += softmax_lanes) {
    const auto e = exp_of<V>(V::subtract(V::load(x + i), V::set(max)));
    V::store(x + i, e);
    sums = V::add(sums, e);
  }
  if (i < n) {
    const auto e =
        exp_of<V>(V::subtract(V::load_some(x + i, n - i, -std::numeric_limits<float>::infinity()), V::set(max)));
    float tail[softmax_lanes];
    V::store(tail, e);
    std::memcpy(x + i, tail, (n - i) * sizeof(float));
    sums = V::add(sums, e);
  }
  return V::sum_lanes(sums);
}

// One head's scores → exp(score − max) · scale, padded with zeros to 16. Returns the weights' step.
template <class V>
[[gnu::always_inline]] inline float q8_products(float* x, const float* scale, std::uint32_t n, float* max_in_out,
                                                float* sum_out) {
  // The carry moves a weight by half a step at most: 254 and a half still rounds to 255 at most.
  constexpr float largest_weight = 254;
  const float max = largest<V>(x, n, *max_in_out);
  auto sums = V::set(0), most = V::set(0), total = V::set(0);
  const auto piece = [&](typename V::Floats score, typename V::Floats by, float* out) {
    const auto e = exp_of<V>(V::subtract(score, V::set(max)));
    const auto product = V::multiply(e, by);
    V::store(out, product);
    sums = V::add(sums, e);
    most = V::max(most, product);
    total = V::add(total, product);  // NaN is lost in a maximum, not in a sum
  };
  std::uint32_t i = 0;
  for (; i + softmax_lanes <= n; i += softmax_lanes) piece(V::load(x + i), V::load(scale + i), x + i);
  if (i < n) {
    piece(V::load_some(x + i, n - i, -std::numeric_limits<float>::infinity()), V::load_some(scale + i, n - i, 0),
          x + i);
  }
  *max_in_out = max;
  *sum_out = V::sum_lanes(sums);
  return V::sum_lanes(total) >= 0 ? V::max_lanes(most) / largest_weight : std::numeric_limits<float>::quiet_NaN();
}

// Products of 2 · Chains heads → weights. A chain is a carry of two heads, eight lanes each.
template <class V, int Chains>
[[gnu::always_inline]] inline void q8_round(const float* products, std::size_t lds, const float* step,
                                            std::uint32_t n_heads, std::uint32_t n, std::uint8_t* weights,
                                            std::size_t ldw) {
  const float* from[2 * Chains];
  std::uint8_t* to[2 * Chains];
  typename V::Floats per_step[Chains], carry[Chains];
  float inverse[2 * Chains];
  for (std::uint32_t h = 0; h < 2 * Chains; ++h) {
    const std::uint32_t head = h < n_heads ? h : n_heads - 1;  // an odd head goes twice
    from[h] = products + head * lds;
    to[h] = weights + head * ldw;
    inverse[h] = step[head] > 0 ? 1.0f / step[head] : 0.0f;
  }
  for (int c = 0; c < Chains; ++c) {
    per_step[c] = V::set_halves(inverse[2 * c], inverse[2 * c + 1]);
    carry[c] = V::set(0);
  }
  for (std::uint32_t j = 0; j < n; j += softmax_lanes / 2) {
#pragma GCC unroll 4
    for (int c = 0; c < Chains; ++c) {
      const auto wanted = V::fma(V::load_halves(from[2 * c] + j, from[2 * c + 1] + j), per_step[c], carry[c]);
      const auto rounded = V::round(wanted);
      carry[c] = V::subtract(wanted, rounded);
      V::store_byte_halves(rounded, to[2 * c] + j, to[2 * c + 1] + j);
    }
  }
}

// Q8WeightsFn
template <class V>
void q8_weights(float* scores, std::size_t lds, const float* scale, std::uint32_t n_heads, std::uint32_t n, float* max,
                float* sum, std::uint8_t* weights, std::size_t ldw, float* step) {
  for (std::uint32_t h = 0; h < n_heads; ++h) {
    step[h] = q8_products<V>(scores + h * lds, scale, n, max + h, sum + h);
  }
  const std::uint32_t padded = (n + softmax_lanes - 1) / softmax_lanes * softmax_lanes;
  std::uint32_t h = 0;
  for (; h + 2 * V::chains <= n_heads; h += 2 * V::chains) {
    q8_round<V, V::chains>(scores + h * lds, lds, step + h, 2 * V::chains, padded, weights + h * ldw, ldw);
  }
  for (; h < n_heads; h += 2) {
    q8_round<V, 1>(scores + h * lds, lds, step + h, n_heads - h < 2 ? 1 : 2, padded, weights + h * ldw, ldw);
  }
}

}  // namespace
}  // namespace r1::simd
