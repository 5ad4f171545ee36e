// Attention over a q8 cache, against the same sums in double over the codes, and every instruction set against the
// others.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "simd/kernels.h"
#include "tests/simd/machine_isas.h"

using namespace r1::simd;

namespace {

constexpr std::uint32_t page_rows = 64;

std::vector<float> normals(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

// 64-byte aligned bytes, as the cache's pages are.
struct Page {
  explicit Page(std::size_t bytes) : storage(bytes / 64 + 1) {}
  std::byte* data() { return reinterpret_cast<std::byte*>(storage.data()); }
  struct alignas(64) Line {
    std::byte at[64];
  };
  std::vector<Line> storage;
};

// The value that a stored row has: read back by the snapshot's way, code by code.
std::vector<double> key_row(const Q8KeyShape& shape, const std::byte* page, std::uint32_t row) {
  std::vector<std::byte> bytes(shape.row_bytes());
  read_q8_key(shape, page, row, bytes.data());
  float scale[2] = {};
  std::memcpy(scale, bytes.data() + shape.quads() * 4, static_cast<std::size_t>(shape.parts()) * 4);
  std::vector<double> x;
  for (int part = 0; part < shape.parts(); ++part) {
    for (std::uint32_t i = 0; i < shape.width[part]; ++i) {
      const std::size_t at = (part == 0 ? 0 : std::size_t{shape.quads(0)} * 4) + i;
      x.push_back((static_cast<int>(bytes[at]) - 128) * static_cast<double>(scale[part]));
    }
  }
  return x;
}

}  // namespace

TEST_CASE("q8 cache: rows come back within half a step, snapshots bit by bit") {
  for (const Q8KeyShape shape :
       {Q8KeyShape{page_rows, {512, 64}}, Q8KeyShape{page_rows, {20, 6}}, Q8KeyShape{page_rows, {17, 0}}}) {
    const std::uint32_t width = shape.width[0] + shape.width[1];
    Page page(shape.page_bytes()), copy(shape.page_bytes());
    for (std::uint32_t row = 0; row < page_rows; ++row) {
      std::vector<float> x = normals(width, row);
      if (row == 3) std::fill(x.begin(), x.end(), 0.0f);
      store_q8_key(shape, x.data(), page.data(), row);
      const std::vector<double> held = key_row(shape, page.data(), row);
      for (int part = 0; part < shape.parts(); ++part) {
        const std::uint32_t begin = part == 0 ? 0 : shape.width[0], end = begin + shape.width[part];
        float largest = 0;
        for (std::uint32_t i = begin; i < end; ++i) largest = std::max(largest, std::fabs(x[i]));
        for (std::uint32_t i = begin; i < end; ++i) CHECK(std::fabs(held[i] - x[i]) <= largest / 127 * 0.5001);
      }
      std::vector<std::byte> bytes(shape.row_bytes());
      read_q8_key(shape, page.data(), row, bytes.data());
      write_q8_key(shape, bytes.data(), copy.data(), row);
    }
    CHECK(std::memcmp(page.data(), copy.data(), shape.page_bytes()) == 0);
  }
  const Q8ValueShape shape{page_rows, 40};
  Page page(shape.page_bytes()), copy(shape.page_bytes());
  for (std::uint32_t row = 0; row < page_rows; ++row) {
    store_q8_value(shape, normals(40, row).data(), page.data(), row);
    std::vector<std::byte> bytes(shape.row_bytes());
    read_q8_value(shape, page.data(), row, bytes.data());
    write_q8_value(shape, bytes.data(), copy.data(), row);
  }
  CHECK(std::memcmp(page.data(), copy.data(), shape.page_bytes()) == 0);
}

TEST_CASE("q8 cache: NaN and infinity are not lost") {
  const Q8KeyShape shape{page_rows, {8, 4}};
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> x = normals(12, 1);
    x[9] = bad;
    Page page(shape.page_bytes());
    store_q8_key(shape, x.data(), page.data(), 5);
    const std::vector<double> held = key_row(shape, page.data(), 5);
    CHECK(std::isfinite(held[0]));
    CHECK(std::isnan(held[9]));
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Kernels* kernels : tested_tables()) {
    for (const bool bad_score : {true, false}) {
      float scores[2 * 16] = {0.5f, 1.0f, bad_score ? nan : 0.25f}, max[2] = {-9, -9}, sum[2], step[2];
      const float scale[3] = {1.0f, bad_score ? 1.0f : nan, 2.0f};
      std::uint8_t weights[2 * 16];
      kernels->q8_weights(scores, 16, scale, 2, 3, max, sum, weights, 16, step);
      CHECK(std::isnan(step[0]));
      CHECK(std::isnan(step[1]) == !bad_score);  // heads do not mix
    }
  }
}

TEST_CASE("q8 weights are a softmax times scales, and keep the sum of many small ones") {
  for (const std::uint32_t n_heads : {1u, 2u, 5u, 16u}) {
    for (const std::uint32_t n : {1u, 7u, 16u, 100u, 256u}) {
      constexpr std::size_t ld = 256;
      std::vector<float> scores(n_heads * ld, 0.0f);
      for (std::uint32_t h = 0; h < n_heads; ++h) {
        const std::vector<float> x = normals(n, h);
        // Head 0: each weight but one is less than half a step.
        for (std::uint32_t j = 0; j < n; ++j) scores[h * ld + j] = h == 0 ? (j == n / 2 ? 0.0f : -6.8f) : 3 * x[j];
      }
      std::vector<float> scale = normals(n, 99);
      for (float& s : scale) s = n_heads == 1 ? 1.0f : std::fabs(s);
      std::vector<std::uint8_t> first_weights;
      std::vector<float> first_figures;
      for (const Kernels* kernels : tested_tables()) {
        std::vector<float> work = scores, figures(3 * n_heads, -std::numeric_limits<float>::infinity());
        std::vector<std::uint8_t> weights(n_heads * ld, 77);
        float *max = figures.data(), *sum = max + n_heads, *step = sum + n_heads;
        kernels->q8_weights(work.data(), ld, scale.data(), n_heads, n, max, sum, weights.data(), ld, step);
        for (std::uint32_t h = 0; h < n_heads; ++h) {
          const float* of_head = scores.data() + h * ld;
          CHECK(max[h] == *std::max_element(of_head, of_head + n));
          double wanted_sum = 0, wanted = 0, held = 0;
          bool near = true;
          for (std::uint32_t j = 0; j < n; ++j) {
            const double p = std::exp(static_cast<double>(of_head[j]) - max[h]);
            wanted_sum += p;
            wanted += p * scale[j];
            held += weights[h * ld + j] * static_cast<double>(step[h]);
            near = near && std::fabs(weights[h * ld + j] * step[h] - p * scale[j]) <= 1.001 * step[h];
          }
          CHECK(near);
          CHECK(sum[h] == doctest::Approx(wanted_sum).epsilon(1e-6));
          CHECK(std::fabs(held - wanted) <= 8 * 0.5001 * step[h]);  // eight carries are left at the end
          for (std::uint32_t j = n; j < (n + 15) / 16 * 16; ++j) CHECK(weights[h * ld + j] == 0);
        }
        if (first_figures.empty()) {
          first_weights = weights;
          first_figures = figures;
        }
        CHECK(weights == first_weights);
        CHECK(figures == first_figures);
      }
    }
  }
}

TEST_CASE("q8 attention: every instruction set gives the exact integer sums") {
  for (const Q8KeyShape shape : {Q8KeyShape{page_rows, {512, 64}}, Q8KeyShape{page_rows, {20, 6}},
                                 Q8KeyShape{page_rows, {128, 0}}, Q8KeyShape{page_rows, {40, 0}}}) {
    const std::uint32_t width = shape.width[0] + shape.width[1], d_v = shape.width[0];
    Page page(shape.page_bytes());
    for (std::uint32_t row = 0; row < page_rows; ++row) {
      std::vector<float> x = normals(width, row + 100);
      x[row % width] = 20;  // codes of 127 beside small ones
      store_q8_key(shape, x.data(), page.data(), row);
    }
    for (const std::uint32_t n_heads : {1u, 3u, 8u, 15u, 16u, 35u}) {
      const std::size_t ldq = shape.quads() * 4;
      std::vector<std::int8_t> q(n_heads * ldq);
      std::vector<float> q_scale(2 * n_heads);
      std::vector<std::int32_t> q_sum(2 * n_heads);
      for (std::uint32_t h = 0; h < n_heads; ++h) {
        quantize_q8_query(shape, normals(width, h + 7).data(), q.data() + h * ldq, &q_scale[2 * h], &q_sum[2 * h]);
      }
      for (const std::uint32_t n_kv : {1u, 16u, 17u, 50u, 64u}) {
        std::vector<float> first_scores, first_out;
        for (const Kernels* table : attention_tables()) {
          const Kernels& kernels = *table;
          std::vector<float> scores(n_heads * page_rows, 0.0f), out(n_heads * d_v, -1.0f);
          kernels.q8_qk(shape, {q.data(), q_scale.data(), q_sum.data()}, n_heads, page.data(), n_kv, scores.data(),
                        page_rows);
          double worst = 0;
          for (std::uint32_t j = 0; j < n_kv; ++j) {
            const std::vector<double> key = key_row(shape, page.data(), j);
            for (std::uint32_t h = 0; h < n_heads; ++h) {
              double expected = 0, size = 0;
              for (std::uint32_t i = 0; i < width; ++i) {
                const bool rope = i >= shape.width[0];
                const std::size_t at = rope ? std::size_t{shape.quads(0)} * 4 + i - shape.width[0] : i;
                const double term = q[h * ldq + at] * static_cast<double>(q_scale[2 * h + (rope ? 1 : 0)]) * key[i];
                expected += term;
                size += std::fabs(term);
              }
              worst = std::max(worst, std::fabs(scores[h * page_rows + j] - expected) / size);
            }
          }
          CHECK(worst < 1e-6);

          const Q8ValueShape as_values{page_rows, d_v};
          std::vector<std::int8_t> values(as_values.code_bytes());
          keys_to_values(shape, page.data(), n_kv, values.data());
          std::vector<std::uint8_t> weights(n_heads * page_rows, 0);
          std::mt19937 random(n_kv);
          for (std::uint32_t h = 0; h < n_heads; ++h) {
            for (std::uint32_t j = 0; j < n_kv; ++j)
              weights[h * page_rows + j] = static_cast<std::uint8_t>(random() % 256);
          }
          std::vector<float> step(n_heads, 0.5f);
          kernels.q8_pv(as_values, weights.data(), page_rows, step.data(), n_heads, values.data(), n_kv, nullptr,
                        out.data(), d_v);
          bool exact = true;
          for (std::uint32_t h = 0; h < n_heads; ++h) {
            for (std::uint32_t i = 0; i < d_v; ++i) {
              std::int64_t sum = 0;
              for (std::uint32_t j = 0; j < n_kv; ++j) {
                const std::byte code = page.data()[j / 16 * shape.block_bytes() + (i / 4 * 16 + j % 16) * 4 + i % 4];
                sum += std::int64_t{weights[h * page_rows + j]} * (static_cast<int>(code) - 128);
              }
              exact = exact && out[h * d_v + i] == static_cast<float>(sum) * 0.5f;
            }
          }
          CHECK(exact);
          const std::vector<float> keep(n_heads, 2.0f), before = out;
          kernels.q8_pv(as_values, weights.data(), page_rows, step.data(), n_heads, values.data(), n_kv, keep.data(),
                        out.data(), d_v);
          bool kept = true;
          for (std::size_t i = 0; i < out.size(); ++i) kept = kept && out[i] == std::fma(before[i], 2.0f, before[i]);
          CHECK(kept);
          if (first_scores.empty()) {
            first_scores = scores;
            first_out = out;
          }
          CHECK(std::memcmp(scores.data(), first_scores.data(), scores.size() * sizeof(float)) == 0);
          CHECK(std::memcmp(out.data(), first_out.data(), out.size() * sizeof(float)) == 0);
        }
      }
    }
  }
}
