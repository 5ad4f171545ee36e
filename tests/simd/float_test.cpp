// Float kernels against the same sums in double.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
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
  for (const std::size_t n : {1u, 5u, 8u, 16u, 77u, 512u}) {
    const auto x = draw(n, 7, 20);
    std::vector<float> e = x, first;
    float max = 0, sum = 0, first_sum = 0;
    for (const Kernels* kernels : tested_tables()) {
      e = x;
      sum = kernels->softmax_part(e.data(), n, -std::numeric_limits<float>::infinity(), &max);
      if (first.empty()) {
        first = e;
        first_sum = sum;
      }
      CHECK(e == first);
      CHECK(sum == first_sum);
    }
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

TEST_CASE("softmax_part begins with a maximum that is known") {
  for (const Kernels* kernels : tested_tables()) {
    std::vector<float> x = {0.5f, -1.0f, 2.0f};
    float max = 0;
    kernels->softmax_part(x.data(), 3, 4.0f, &max);
    CHECK(max == 4.0f);
    CHECK(x[2] == doctest::Approx(std::exp(-2.0)));
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
    struct Shape {
      std::uint32_t n_heads, n_kv, d;
    };
    // Few heads; many, which some tables give widened blocks of rows; more rows than a block has, and wider ones.
    for (const auto [n_heads, n_kv, d] : {Shape{7, 13, 5}, Shape{7, 13, 40}, Shape{7, 13, 160}, Shape{7, 13, 576},
                                          Shape{16, 13, 576}, Shape{17, 263, 43}, Shape{16, 8, 1030}}) {
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
      for (const Kernels* table : tested_tables()) {
        std::vector<float> same_scores(scores.size()), same_out(out.size(), 0.5f);
        table->qk(type, q.data(), ld, n_heads, kv.data(), ld, n_kv, d, same_scores.data(), n_kv);
        table->pv(type, p.data(), n_kv, n_heads, kv.data(), ld, n_kv, d, same_out.data(), ld);
        CHECK(same_scores == scores);
        CHECK(same_out == out);
      }
    }
  }
}

TEST_CASE("bf16's dot products equal qk and pv but for the rounding of sums") {
  for (const Kernels* kernels : machine_tables()) {
    if (kernels->bf16_qk == nullptr) continue;
    for (const std::uint32_t d : {5u, 16u, 40u, 72u, 576u, 1500u}) {
      for (const std::uint32_t n_kv : {1u, 2u, 13u, 300u}) {
        constexpr std::uint32_t n_heads = 19, page_rows = 300;
        const std::size_t ld = d + 3, ldp = page_rows;
        auto q = draw(n_heads * ld, 1), p = draw(n_heads * ldp, 3);
        const auto rows = draw(n_kv * ld, 2);
        kernels->round_to_bf16(q.data(), q.size(), q.data());
        kernels->round_to_bf16(p.data(), p.size(), p.data());
        std::vector<std::uint16_t> kv(n_kv * ld), values((d + 15) / 16 * 16 * page_rows, 0x7fc0);
        kernels->store_kv(KvType::bf16, rows.data(), rows.size(), kv.data());
        std::vector<float> scores(n_heads * ldp), out(n_heads * ld, 0.5f);
        auto expected_scores = scores, expected_out = out, one_score = scores, one_out = out;
        kernels->qk(KvType::bf16, q.data(), ld, n_heads, kv.data(), ld, n_kv, d, expected_scores.data(), ldp);
        kernels->pv(KvType::bf16, p.data(), ldp, n_heads, kv.data(), ld, n_kv, d, expected_out.data(), ld);
        kernels->bf16_qk(q.data(), ld, n_heads, kv.data(), ld, n_kv, d, scores.data(), ldp);
        kernels->bf16_values(kv.data(), ld, n_kv, d, page_rows, values.data());
        kernels->bf16_pv(p.data(), ldp, n_heads, values.data(), page_rows, n_kv, d, out.data(), ld);
        double worst = 0;
        for (std::size_t i = 0; i < scores.size(); ++i)
          worst = std::max(worst, std::fabs(static_cast<double>(scores[i]) - expected_scores[i]));
        for (std::size_t i = 0; i < out.size(); ++i)
          worst = std::max(worst, std::fabs(static_cast<double>(out[i]) - expected_out[i]));
        CHECK(worst < 1e-4);
        for (std::uint32_t h = 0; h < n_heads; ++h) {
          kernels->bf16_qk(q.data() + h * ld, ld, 1, kv.data(), ld, n_kv, d, one_score.data() + h * ldp, ldp);
          kernels->bf16_pv(p.data() + h * ldp, ldp, 1, values.data(), page_rows, n_kv, d, one_out.data() + h * ld, ld);
        }
        CHECK(scores == one_score);
        CHECK(out == one_out);
      }
    }
  }
}

TEST_CASE("round_to_bf16 rounds to nearest, ties to even") {
  const Kernels& kernels = *machine_tables().front();
  std::vector<float> x = draw(1003, 5, 100);
  x[0] = 1 + 0x1p-8f;  // halfway, down to even
  x[1] = 1 + 0x3p-8f;  // halfway, up to even
  std::vector<float> out(x.size());
  const float sum = kernels.round_to_bf16(x.data(), x.size(), out.data());
  double expected = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    CHECK(out[i] == quant::bf16_to_f32(quant::f32_to_bf16(x[i])));
    expected += static_cast<double>(out[i]);
  }
  CHECK(sum == doctest::Approx(expected).epsilon(1e-4));
  float nan = std::bit_cast<float>(0x7fffffffu);
  CHECK(std::isnan(kernels.round_to_bf16(&nan, 1, &nan)));
  CHECK(std::isnan(nan));
}
