// Error feedback: the factorisation against plain elimination in double precision, the encoder against the one without
// feedback, one answer for every order of work, bad input.
#include "quant/feedback.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "quant/decode.h"
#include "quant/encode.h"

using namespace r1::quant;

namespace {

using Matrix = std::vector<std::vector<double>>;

const ForEach in_order = [](std::size_t n, const std::function<void(std::size_t)>& fn) {
  for (std::size_t i = 0; i < n; ++i) fn(i);
};

std::vector<float> normal(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  const auto uniform = [&] { return (static_cast<double>(engine() >> 11) + 0.5) * 0x1p-53; };
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(std::sqrt(-2 * std::log(uniform())) * std::cos(2 * M_PI * uniform()));
  return x;
}

// Moments of 400 made tokens whose columns share a few causes, and are of very different size.
std::vector<float> correlated_moments(std::uint32_t k, std::uint64_t seed) {
  constexpr std::uint32_t n_causes = 12, n_tokens = 400;
  const auto mix = normal(std::size_t{k} * n_causes, seed), causes = normal(n_tokens * n_causes, seed + 1);
  const auto noise = normal(std::size_t{n_tokens} * k, seed + 2), sizes = normal(k, seed + 3);
  std::vector<double> x(k), sums(triangle_values(k));
  for (std::uint32_t t = 0; t < n_tokens; ++t) {
    for (std::uint32_t i = 0; i < k; ++i) {
      x[i] = 0.5 * noise[t * k + i];
      for (std::uint32_t c = 0; c < n_causes; ++c) x[i] += 0.5 * mix[i * n_causes + c] * causes[t * n_causes + c];
      x[i] *= std::exp(0.5 * sizes[i]);
    }
    for (std::uint32_t i = 0; i < k; ++i) {
      for (std::uint32_t j = 0; j <= i; ++j) sums[triangle_values(i) + j] += x[i] * x[j];
    }
  }
  return {sums.begin(), sums.end()};
}

double at(const std::vector<float>& moments, std::size_t i, std::size_t j) {
  return moments[triangle_values(std::max(i, j)) + std::min(i, j)];
}

std::vector<float> diagonal_of(const std::vector<float>& moments, std::uint32_t k) {
  std::vector<float> diagonal(k);
  for (std::uint32_t i = 0; i < k; ++i) diagonal[i] = static_cast<float>(at(moments, i, i));
  return diagonal;
}

Matrix inverse_of(Matrix a) {
  const std::size_t n = a.size();
  Matrix b(n, std::vector<double>(n));
  for (std::size_t i = 0; i < n; ++i) b[i][i] = 1;
  for (std::size_t p = 0; p < n; ++p) {
    for (std::size_t i = 0; i < n; ++i) {
      if (i == p) continue;
      const double f = a[i][p] / a[p][p];
      for (std::size_t j = 0; j < n; ++j) {
        a[i][j] -= f * a[p][j];
        b[i][j] -= f * b[p][j];
      }
    }
  }
  for (std::size_t i = 0; i < n; ++i) {
    for (double& v : b[i]) v /= a[i][i];
  }
  return b;
}

// U and the diagonal of D, by taking the last block out of what is left, again and again.
struct Reference {
  Matrix u;
  std::vector<double> d;
};
Reference eliminate(std::uint32_t k, const std::vector<float>& moments) {
  double mean = 0;
  for (std::uint32_t i = 0; i < k; ++i) mean += at(moments, i, i) / k;
  const std::uint32_t n = (k + 31) / 32 * 32;
  Matrix h(n, std::vector<double>(n));
  for (std::uint32_t i = 0; i < n; ++i) {
    for (std::uint32_t j = 0; j < n; ++j) h[i][j] = i < k && j < k ? at(moments, i, j) / mean : i == j;
    if (i < k) h[i][i] = h[i][i] * (1 + 1e-5) + 0.01;
  }
  Reference reference{Matrix(n, std::vector<double>(n)), std::vector<double>(n)};
  for (std::uint32_t b = n; b > 0; b -= 32) {
    const std::uint32_t first = b - 32;
    Matrix d(32, std::vector<double>(32));
    for (std::uint32_t i = 0; i < 32; ++i) {
      for (std::uint32_t j = 0; j < 32; ++j) d[i][j] = h[first + i][first + j];
      reference.d[first + i] = d[i][i];
    }
    const Matrix inverse = inverse_of(d);
    for (std::uint32_t i = 0; i < first; ++i) {
      for (std::uint32_t c = 0; c < 32; ++c) {
        for (std::uint32_t t = 0; t < 32; ++t) reference.u[i][first + c] += h[i][first + t] * inverse[t][c];
      }
    }
    for (std::uint32_t i = 0; i < first; ++i) {
      for (std::uint32_t j = 0; j < first; ++j) {
        for (std::uint32_t c = 0; c < 32; ++c) h[i][j] -= reference.u[i][first + c] * h[first + c][j];
      }
    }
  }
  return reference;
}

std::vector<std::byte> encode(Format format, std::uint32_t rows, std::uint32_t k, const std::vector<float>& x,
                              std::span<const float> importance, const Feedback* feedback,
                              const EncodeOptions& options = {}) {
  const BlobLayout layout = blob_layout(format, rows, k).value();
  std::vector<std::byte> blob(layout.bytes, std::byte{0xee});
  encode_tensor(format, layout, x, importance, blob, options, feedback);
  return blob;
}

std::vector<float> decoded(Format format, std::uint32_t rows, std::uint32_t k, const std::vector<std::byte>& blob) {
  std::vector<float> y(std::size_t{rows} * k);
  decode_rows(format, blob_layout(format, rows, k).value(), blob, 0, rows, y.data());
  return y;
}

// Σ over rows of e H eᵀ
double output_error(std::uint32_t rows, std::uint32_t k, const std::vector<float>& x, const std::vector<float>& y,
                    const std::vector<float>& moments) {
  double error = 0;
  for (std::uint32_t r = 0; r < rows; ++r) {
    for (std::uint32_t i = 0; i < k; ++i) {
      for (std::uint32_t j = 0; j < k; ++j)
        error += (static_cast<double>(x[r * k + i]) - y[r * k + i]) * at(moments, i, j) *
                 (static_cast<double>(x[r * k + j]) - y[r * k + j]);
    }
  }
  return error;
}

bool same(const Feedback& a, const Feedback& b) {
  for (std::uint32_t i = 0; i < a.n_blocks(); ++i) {
    for (std::uint32_t j = i + 1; j < a.n_blocks(); ++j) {
      if (std::memcmp(a.factor(i, j), b.factor(i, j), 32 * 32 * sizeof(float)) != 0) return false;
    }
  }
  return std::equal(a.importance().begin(), a.importance().end(), b.importance().begin());
}

constexpr Format all_t_formats[] = {Format::t2, Format::t2_5, Format::t3, Format::t3_5,
                                    Format::t4, Format::t4h,  Format::t5, Format::nl6};

}  // namespace

TEST_CASE("feedback: the factor and its importance are those of plain elimination") {
  for (const std::uint32_t k : {1u, 20u, 32u, 33u, 96u, 150u, 256u}) {
    CAPTURE(k);
    const auto moments = correlated_moments(k, k);
    const auto feedback = Feedback::of(k, moments, in_order);
    REQUIRE(feedback.has_value());
    const Reference reference = eliminate(k, moments);
    CHECK(feedback->k() == k);
    CHECK(feedback->n_blocks() == (k + 31) / 32);
    REQUIRE(feedback->importance().size() == k);
    for (std::uint32_t i = 0; i < k; ++i)
      CHECK(feedback->importance()[i] == doctest::Approx(reference.d[i]).epsilon(1e-3));
    double error = 0, size = 0;
    for (std::uint32_t a = 0; a < feedback->n_blocks(); ++a) {
      for (std::uint32_t b = a + 1; b < feedback->n_blocks(); ++b) {
        for (std::uint32_t i = 0; i < 32; ++i) {
          for (std::uint32_t c = 0; c < 32; ++c) {
            const double wanted = reference.u[32 * a + i][32 * b + c];
            error += std::pow(feedback->factor(a, b)[32 * i + c] - wanted, 2);
            size += wanted * wanted;
          }
        }
      }
    }
    CHECK(error <= 1e-6 * size);
    CHECK((size > 0) == (k > 32));
  }
}

TEST_CASE("feedback: any order of work and any number of threads give the same factor") {
  constexpr std::uint32_t k = 200;
  const auto moments = correlated_moments(k, 5);
  const auto feedback = Feedback::of(k, moments, in_order);
  const auto backwards = Feedback::of(k, moments, [](std::size_t n, const std::function<void(std::size_t)>& fn) {
    while (n > 0) fn(--n);
  });
  const auto threaded = Feedback::of(k, moments, [](std::size_t n, const std::function<void(std::size_t)>& fn) {
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < 3; ++t) {
      threads.emplace_back([&, t] {
        for (std::size_t i = t; i < n; i += 3) fn(i);
      });
    }
    for (auto& thread : threads) thread.join();
  });
  REQUIRE((feedback && backwards && threaded));
  CHECK(same(*feedback, *backwards));
  CHECK(same(*feedback, *threaded));
}

TEST_CASE("feedback between columns that are like no other changes nothing") {
  constexpr std::uint32_t rows = 21, k = 160;
  auto moments = correlated_moments(k, 6);
  for (std::uint32_t i = 0; i < k; ++i) {
    for (std::uint32_t j = 0; j < i; ++j) moments[triangle_values(i) + j] = 0;
  }
  const auto feedback = Feedback::of(k, moments, in_order);
  REQUIRE(feedback.has_value());
  const auto x = normal(rows * k, 7);
  for (const Format format : all_formats) {
    CAPTURE(std::string(info(format).name));
    for (const bool restore_gain : {false, true}) {
      const EncodeOptions options = {.restore_gain = restore_gain};
      const auto plain = encode(format, rows, k, x, feedback->importance(), nullptr, options);
      CHECK(encode(format, rows, k, x, feedback->importance(), &*feedback, options) == plain);
      // The feedback's own importance counts.
      if (takes_feedback(format)) CHECK(encode(format, rows, k, x, {}, &*feedback, options) == plain);
    }
  }
}

TEST_CASE("feedback lowers the error of products with correlated inputs") {
  constexpr std::uint32_t rows = 24, k = 416;
  const auto moments = correlated_moments(k, 8);
  const auto feedback = Feedback::of(k, moments, in_order);
  REQUIRE(feedback.has_value());
  const auto x = normal(rows * k, 9), importance = diagonal_of(moments, k);
  for (const Format format : all_t_formats) {
    CAPTURE(std::string(info(format).name));
    for (const bool restore_gain : {false, true}) {
      const EncodeOptions options = {.restore_gain = restore_gain};
      const auto without = decoded(format, rows, k, encode(format, rows, k, x, importance, nullptr, options));
      const auto with = decoded(format, rows, k, encode(format, rows, k, x, {}, &*feedback, options));
      CHECK(output_error(rows, k, x, with, moments) < 0.7 * output_error(rows, k, x, without, moments));
    }
  }
}

TEST_CASE("with feedback too, every instruction set and any panels at a time give the same bytes") {
  constexpr std::uint32_t rows = 90, k = 160;
  const auto feedback = Feedback::of(k, correlated_moments(k, 10), in_order);
  REQUIRE(feedback.has_value());
  auto x = normal(rows * k, 11);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t row = i / k;
    if (row % 9 == 1) x[i] *= 1e36f;
    if (row % 9 == 2) x[i] *= 1e-28f;
    if (row % 9 == 3) x[i] = 0;
    if (row % 9 == 4) x[i] = i % 41 == 0 ? 1.0f : 0.0f;
    if (row % 9 == 5 && i % 71 == 0) x[i] *= 300;
  }
  for (const Format format : all_t_formats) {
    CAPTURE(std::string(info(format).name));
    for (const Effort effort : {Effort::fast, Effort::normal, Effort::best}) {
      CAPTURE(std::string(effort_name(effort)));
      EncodeOptions options = {.effort = effort, .restore_gain = true, .isa = SearchIsa::scalar};
      const auto oracle = encode(format, rows, k, x, {}, &*feedback, options);
      for (const SearchIsa isa : all_search_isas) {
        options.isa = isa;
        if (machine_has(isa)) CHECK(encode(format, rows, k, x, {}, &*feedback, options) == oracle);
      }
      const BlobLayout layout = blob_layout(format, rows, k).value();
      std::vector<float> sample;
      for (std::uint32_t i = 0; i < n_sample_rows(rows); ++i) {
        const float* row = x.data() + sample_row_index(rows, i) * k;
        sample.insert(sample.end(), row, row + k);
      }
      options.isa = SearchIsa::automatic;
      const TensorEncoding encoding =
          prepare_encoding(format, layout, sample, n_sample_rows(rows), {}, options, &*feedback);
      std::vector<std::byte> panels(layout.n_panels * layout.panel_bytes);
      float scales[3 * panel_rows];
      for (std::uint32_t begin = 0, step = 1; begin < layout.n_panels; begin += step, step = step % 3 + 1) {
        const std::uint32_t end = std::min(begin + step, layout.n_panels);
        encode_panels(encoding, begin, end, x.data() + begin * panel_rows * k, {},
                      panels.data() + begin * layout.panel_bytes, scales);
        CHECK(std::memcmp(scales, oracle.data() + layout.row_scale_offset_bytes + begin * panel_rows * sizeof(float),
                          (end - begin) * panel_rows * sizeof(float)) == 0);
      }
      CHECK(std::memcmp(panels.data(), oracle.data() + layout.panels_offset_bytes, panels.size()) == 0);
    }
  }
}

TEST_CASE("with feedback too, odd shapes are padded and every finite row decodes to finite values") {
  for (const std::uint32_t k : {1u, 31u, 33u, 129u, 200u}) {
    const auto feedback = Feedback::of(k, correlated_moments(k, 12), in_order);
    REQUIRE(feedback.has_value());
    for (const std::uint32_t rows : {1u, 17u, 70u}) {
      CAPTURE(k);
      CAPTURE(rows);
      auto x = normal(rows * k, 13);
      for (const Format format : all_t_formats) {
        const auto y = decoded(format, rows, k, encode(format, rows, k, x, {}, &*feedback));
        double error = 0, signal = 0;
        for (std::size_t i = 0; i < x.size(); ++i) {
          REQUIRE(std::isfinite(y[i]));
          error += std::pow(static_cast<double>(x[i]) - y[i], 2);
          signal += static_cast<double>(x[i]) * x[i];
        }
        CHECK(error < signal);
      }
      for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::ldexp(x[i], static_cast<int>(i * 37 % 230) - 110);
      if (x.size() > 7) x[7] = NAN;
      for (const Format format : all_t_formats) {
        for (const float v : decoded(format, rows, k, encode(format, rows, k, x, {}, &*feedback)))
          REQUIRE(std::isfinite(v));
      }
    }
  }
}

TEST_CASE("moments that are none give no feedback, those of few tokens or of dead columns do") {
  constexpr std::uint32_t k = 70;
  const auto moments = correlated_moments(k, 14);
  CHECK_FALSE(Feedback::of(k, std::vector<float>(triangle_values(k)), in_order));
  CHECK_FALSE(Feedback::of(k + 1, moments, in_order));
  CHECK_FALSE(Feedback::of(0, {}, in_order));
  for (const float bad : {NAN, INFINITY, -1.0f}) {
    auto broken = moments;
    broken[triangle_values(3) + 3] = bad;
    CHECK_FALSE(Feedback::of(k, broken, in_order));
  }
  auto broken = moments;
  broken[triangle_values(40) + 3] = NAN;
  CHECK_FALSE(Feedback::of(k, broken, in_order));

  const auto x = normal(k, 15);  // one token
  std::vector<float> one;
  for (std::uint32_t i = 0; i < k; ++i) {
    for (std::uint32_t j = 0; j <= i; ++j) one.push_back(1e20f * x[i] * x[j]);
  }
  CHECK(Feedback::of(k, one, in_order));
  auto dead = moments;
  for (std::uint32_t i = 0; i < k; ++i) {
    for (std::uint32_t j = 0; j <= i; ++j) {
      if (i / 8 == 3 || j / 8 == 3) dead[triangle_values(i) + j] = 0;
    }
  }
  const auto feedback = Feedback::of(k, dead, in_order);
  REQUIRE(feedback.has_value());
  for (const float v : feedback->importance()) CHECK((std::isfinite(v) && v > 0));
}
