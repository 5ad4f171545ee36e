// Float kernels against the same sums in double.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "machine_isas.h"
#include "quant/fp8.h"
#include "simd/kernels.h"

using namespace r1;
using namespace r1::simd;

namespace {

std::vector<float> draw(std::size_t n, unsigned seed, float scale = 1.0f) {
  std::mt19937 engine(seed);
  std::vector<float> x(n);
  for (float& v : x) v = scale * static_cast<float>(static_cast<int>(engine() % 20001) - 10000) * 1e-4f;
  return x;
}

}  // namespace

TEST_CASE("rms_norm, silu_mul, axpy and dot") {
  const Kernels& kernels = *machine_tables().front();
  for (const std::size_t n : {1u, 7u, 8u, 64u, 7168u, 451u}) {
    CAPTURE(n);
    const auto x = draw(n, 1, 3), w = draw(n, 2);
    std::vector<float> out(n);
    kernels.rms_norm(x.data(), w.data(), n, 1e-6f, out.data());
    double square = 0, product = 0;
    for (std::size_t i = 0; i < n; ++i) {
      square += static_cast<double>(x[i]) * x[i];
      product += static_cast<double>(x[i]) * w[i];
    }
    const double scale = 1 / std::sqrt(square / static_cast<double>(n) + 1e-6);
    for (std::size_t i = 0; i < n; ++i) CHECK(std::fabs(out[i] - x[i] * scale * w[i]) < 2e-6);
    CHECK(kernels.dot(x.data(), w.data(), n) == doctest::Approx(product).epsilon(1e-4));

    const auto gate = draw(n, 3, 30), up = draw(n, 4, 2);
    kernels.silu_mul(gate.data(), up.data(), n, out.data());
    for (std::size_t i = 0; i < n; ++i) {
      const double g = gate[i], expected = g / (1 + std::exp(-g)) * up[i];
      CHECK(std::fabs(out[i] - expected) <= 1e-6 * std::fabs(expected) + 1e-9);
    }
    std::vector<float> y = w;
    kernels.axpy(0.3f, x.data(), n, y.data());
    for (std::size_t i = 0; i < n; ++i) CHECK(y[i] == doctest::Approx(w[i] + 0.3 * x[i]).epsilon(1e-5));
  }
  // Large gates neither overflow nor turn into NaN.
  const float gate[3] = {-200.0f, 200.0f, 0.0f}, up[3] = {1, 1, 1};
  float out[3];
  kernels.silu_mul(gate, up, 3, out);
  CHECK((std::fabs(out[0]) < 1e-30f && out[1] == 200.0f && out[2] == 0.0f));
}

TEST_CASE("softmax_part") {
  const Kernels& kernels = *machine_tables().front();
  for (const std::size_t n : {1u, 5u, 8u, 77u, 512u}) {
    const auto x = draw(n, 7, 20);
    std::vector<float> e = x;
    float max = 0;
    const float sum = kernels.softmax_part(e.data(), n, &max);
    double expected = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const double v = std::exp(static_cast<double>(x[i]) - max);
      expected += v;
      CHECK(std::fabs(e[i] - v) <= 1e-6 * v + 1e-12);
    }
    CHECK(max == *std::max_element(x.begin(), x.end()));
    CHECK(sum == doctest::Approx(expected).epsilon(1e-6));
  }
}

TEST_CASE("rope turns pairs") {
  const Kernels& kernels = *machine_tables().front();
  for (const std::size_t d : {2u, 32u, 64u, 40u}) {
    const auto x = draw(d, 1), angle = draw(d / 2, 2, 3);
    std::vector<float> cos(d / 2), sin(d / 2);
    for (std::size_t i = 0; i < d / 2; ++i) {
      cos[i] = std::cos(angle[i]);
      sin[i] = std::sin(angle[i]);
    }
    auto a = x, b = x;
    kernels.rope_interleaved(a.data(), cos.data(), sin.data(), d);
    kernels.rope_halves(b.data(), cos.data(), sin.data(), d);
    for (std::size_t i = 0; i < d / 2; ++i) {
      CHECK(a[2 * i] == doctest::Approx(x[2 * i] * cos[i] - x[2 * i + 1] * sin[i]).epsilon(1e-5));
      CHECK(a[2 * i + 1] == doctest::Approx(x[2 * i] * sin[i] + x[2 * i + 1] * cos[i]).epsilon(1e-5));
      CHECK(b[i] == doctest::Approx(x[i] * cos[i] - x[i + d / 2] * sin[i]).epsilon(1e-5));
      CHECK(b[i + d / 2] == doctest::Approx(x[i + d / 2] * cos[i] + x[i] * sin[i]).epsilon(1e-5));
    }
  }
}

TEST_CASE("qk and pv over f32, f16 and bf16 rows, whatever the grouping of heads") {
  const Kernels& kernels = *machine_tables().front();
  for (const KvType type : {KvType::f32, KvType::f16, KvType::bf16}) {
    for (const std::uint32_t d : {5u, 40u, 160u, 576u}) {
      constexpr std::uint32_t n_heads = 7, n_kv = 13;
      const std::size_t ld = d + 3, element = kv_element_bytes(type);
      const auto q = draw(n_heads * ld, 1), rows = draw(n_kv * ld, 2), p = draw(n_heads * n_kv, 3);
      std::vector<std::byte> kv(n_kv * ld * element);
      kernels.store_kv(type, rows.data(), rows.size(), kv.data());
      std::vector<float> stored(rows.size());
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const auto* halves = reinterpret_cast<const std::uint16_t*>(kv.data());
        stored[i] = type == KvType::f32   ? rows[i]
                    : type == KvType::f16 ? quant::f16_to_f32(halves[i])
                                          : quant::bf16_to_f32(halves[i]);
        CHECK(std::fabs(stored[i] - rows[i]) <= std::fabs(rows[i]) * (type == KvType::bf16 ? 0.004f : 0.0005f) + 1e-7f);
      }
      std::vector<float> scores(n_heads * n_kv), out(n_heads * ld, 0.5f), one_score(n_heads * n_kv),
          one_out(n_heads * ld, 0.5f);
      kernels.qk(type, q.data(), ld, n_heads, kv.data(), ld, n_kv, d, scores.data(), n_kv);
      kernels.pv(type, p.data(), n_kv, n_heads, kv.data(), ld, n_kv, d, out.data(), ld);
      for (std::uint32_t h = 0; h < n_heads; ++h) {
        for (std::uint32_t j = 0; j < n_kv; ++j) {
          double sum = 0;
          for (std::uint32_t i = 0; i < d; ++i) sum += static_cast<double>(q[h * ld + i]) * stored[j * ld + i];
          CHECK(std::fabs(scores[h * n_kv + j] - sum) < 1e-4);
          kernels.qk(type, q.data() + h * ld, ld, 1, kv.data() + j * ld * element, ld, 1, d,
                     one_score.data() + h * n_kv + j, n_kv);
        }
        for (std::uint32_t i = 0; i < d; ++i) {
          double sum = 0.5;
          for (std::uint32_t j = 0; j < n_kv; ++j) sum += static_cast<double>(p[h * n_kv + j]) * stored[j * ld + i];
          CHECK(std::fabs(out[h * ld + i] - sum) < 1e-4);
        }
        kernels.pv(type, p.data() + h * n_kv, n_kv, 1, kv.data(), ld, n_kv, d, one_out.data() + h * ld, ld);
      }
      CHECK(scores == one_score);
      CHECK(out == one_out);
    }
  }
}
