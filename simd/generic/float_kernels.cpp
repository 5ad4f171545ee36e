// Float kernels on xsimd, for the baseline (AVX2 and FMA). Every instruction set of the table uses this one instance,
// so that what is not an integer product is the same bits on all of them.
#include "simd/generic/float_kernels.h"

#include <cmath>
#include <xsimd/xsimd.hpp>

namespace r1::simd {
namespace {

using Batch = xsimd::batch<float, xsimd::fma3<xsimd::avx2>>;
constexpr std::size_t lanes = Batch::size;

float sum_of(const Batch& b) {
  return xsimd::hadd(b);
}

void rms_norm(const float* x, const float* weight, std::size_t n, float eps, float* out) {
  Batch sums(0.0f);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const Batch v = Batch::load_unaligned(x + i);
    sums = xsimd::fma(v, v, sums);
  }
  float sum = sum_of(sums);
  for (; i < n; ++i) sum += x[i] * x[i];
  const float scale = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
  for (i = 0; i + lanes <= n; i += lanes) {
    (Batch::load_unaligned(x + i) * Batch(scale) * Batch::load_unaligned(weight + i)).store_unaligned(out + i);
  }
  for (; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

void silu_mul(const float* gate, const float* up, std::size_t n, float* out) {
  const auto silu = [](const Batch& g) { return g / (Batch(1.0f) + xsimd::exp(-g)); };
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    (silu(Batch::load_unaligned(gate + i)) * Batch::load_unaligned(up + i)).store_unaligned(out + i);
  if (i == n) return;
  // The tail goes through the same exp, so that a value does not depend on where it stands.
  float g[lanes] = {}, u[lanes] = {}, o[lanes];
  std::copy(gate + i, gate + n, g);
  std::copy(up + i, up + n, u);
  (silu(Batch::load_unaligned(g)) * Batch::load_unaligned(u)).store_unaligned(o);
  std::copy(o, o + (n - i), out + i);
}

void axpy(float a, const float* x, std::size_t n, float* y) {
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    xsimd::fma(Batch(a), Batch::load_unaligned(x + i), Batch::load_unaligned(y + i)).store_unaligned(y + i);
  for (; i < n; ++i) y[i] = std::fma(a, x[i], y[i]);
}

float dot(const float* a, const float* b, std::size_t n) {
  Batch sums(0.0f);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    sums = xsimd::fma(Batch::load_unaligned(a + i), Batch::load_unaligned(b + i), sums);
  float sum = sum_of(sums);
  for (; i < n; ++i) sum = std::fma(a[i], b[i], sum);
  return sum;
}

void rope_interleaved(float* x, const float* cos, const float* sin, std::size_t d) {
  for (std::size_t i = 0; i < d / 2; ++i) {
    const float even = x[2 * i], odd = x[2 * i + 1];
    x[2 * i] = even * cos[i] - odd * sin[i];
    x[2 * i + 1] = even * sin[i] + odd * cos[i];
  }
}

void rope_halves(float* x, const float* cos, const float* sin, std::size_t d) {
  const std::size_t half = d / 2;
  std::size_t i = 0;
  for (; i + lanes <= half; i += lanes) {
    const Batch a = Batch::load_unaligned(x + i), b = Batch::load_unaligned(x + half + i);
    const Batch c = Batch::load_unaligned(cos + i), s = Batch::load_unaligned(sin + i);
    (a * c - b * s).store_unaligned(x + i);
    (b * c + a * s).store_unaligned(x + half + i);
  }
  for (; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    x[i] = a * cos[i] - b * sin[i];
    x[half + i] = b * cos[i] + a * sin[i];
  }
}

}  // namespace

void use_float_kernels(Kernels& kernels) {
  kernels.rms_norm = rms_norm;
  kernels.silu_mul = silu_mul;
  kernels.axpy = axpy;
  kernels.dot = dot;
  kernels.rope_interleaved = rope_interleaved;
  kernels.rope_halves = rope_halves;
}

}  // namespace r1::simd
