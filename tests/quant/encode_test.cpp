// Encoders: error against the table of FORMAT.md, one answer for every order of work, bad input.
#include "quant/encode.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "quant/decode.h"

using namespace r1::quant;

namespace {

enum class Distribution { gauss, laplace, student5 };

// std's engines are the same everywhere, its distributions are not: these are made from uniforms by formulas.
std::vector<float> draw(Distribution distribution, std::size_t n, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  const auto uniform = [&] { return (static_cast<double>(engine() >> 11) + 0.5) * 0x1p-53; };
  const auto normal = [&] { return std::sqrt(-2 * std::log(uniform())) * std::cos(2 * M_PI * uniform()); };
  std::vector<float> x(n);
  for (float& v : x) {
    if (distribution == Distribution::gauss) {
      v = static_cast<float>(normal());
    } else if (distribution == Distribution::laplace) {
      const double u = uniform() - 0.5;
      v = static_cast<float>((u < 0 ? 1 : -1) * std::log(1 - 2 * std::fabs(u)) / std::sqrt(2.0));
    } else {
      double chi2 = 0;
      for (int i = 0; i < 5; ++i) {
        const double g = normal();
        chi2 += g * g;
      }
      v = static_cast<float>(normal() / std::sqrt(chi2 / 5) / std::sqrt(5.0 / 3));
    }
  }
  return x;
}

std::vector<float> lognormal(std::size_t n) {
  std::vector<float> w = draw(Distribution::gauss, n, 77);
  for (float& v : w) v = std::exp(v);
  return w;
}

struct Blob {
  BlobLayout layout;
  std::vector<std::byte> bytes;
  std::vector<float> decoded;
};

Blob encode(Format format, std::uint32_t rows, std::uint32_t k, const std::vector<float>& x,
            const std::vector<float>& importance = {}, const EncodeOptions& options = {}) {
  Blob blob;
  blob.layout = blob_layout(format, rows, k).value();
  blob.bytes.resize(blob.layout.bytes, std::byte{0xee});
  encode_tensor(format, blob.layout, x, importance, blob.bytes, options);
  blob.decoded.resize(x.size());
  decode_rows(format, blob.layout, blob.bytes, 0, rows, blob.decoded.data());
  return blob;
}

double relative_rms(const std::vector<float>& x, const std::vector<float>& y,
                    const std::vector<float>& importance = {}) {
  double error = 0, signal = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double w = importance.empty() ? 1.0 : importance[i % importance.size()], d = static_cast<double>(x[i]) - y[i];
    error += w * d * d;
    signal += w * static_cast<double>(x[i]) * x[i];
  }
  return std::sqrt(error / signal);
}

// Padded rows own no bit that is set.
void check_zero_row(const Blob& blob, Format format, std::uint32_t row) {
  const FormatInfo& f = info(format);
  const std::uint32_t r = row % panel_rows;
  const auto* panel = reinterpret_cast<const std::uint8_t*>(blob.bytes.data()) + blob.layout.panels_offset_bytes +
                      row / panel_rows * blob.layout.panel_bytes;
  int set = 0;
  for (std::uint32_t c = 0; c < blob.layout.k_padded / superchunk_k; ++c) {
    const std::uint8_t* scales = panel + std::size_t{c} * f.superchunk_bytes;
    const std::uint8_t* codes = scales + (f.scale == ScaleKind::s8 ? 64 : 32);
    for (std::uint32_t b = 0; b < 4; ++b) {
      set |=
          f.scale == ScaleKind::s8 ? scales[16 * b + r] : scales[8 * b + 4 * (r & 1) + r / 4] >> (r >> 1 & 1) * 4 & 15;
    }
    const std::uint32_t group = f.group_bytes;
    const std::uint32_t place = f.is_trellis() ? (r & 1) * 8 * group + (r >> 1) * group : r * group;
    for (std::uint32_t g = 0; g < 4 * f.block_bytes / (16 * group); ++g) {
      for (std::uint32_t i = 0; i < group; ++i) set |= codes[g * 16 * group + place + i];
    }
  }
  CHECK(set == 0);
}

// Relative RMSE of 8 × 7168 unit-variance weights: Gauss, Laplace, t(5), and the same with importance. nl6 and w8
// without importance only, as the format's description has no more; nl6 as its sketch measures.
struct Expected {
  Format format;
  double plain[3], weighted[3];
};
constexpr Expected table[] = {
    {Format::t2, {.2778, .2760, .2800}, {.2255, .2249, .2299}},
    {Format::t2_5, {.2045, .2027, .2069}, {.1668, .1659, .1700}},
    {Format::t3, {.1440, .1419, .1462}, {.1177, .1167, .1201}},
    {Format::t3_5, {.1055, .1059, .1105}, {.0880, .0893, .0918}},
    {Format::t4, {.0735, .0754, .0814}, {.0621, .0645, .0672}},
    {Format::t4h, {.0700, .0718, .0727}, {.0586, .0606, .0628}},
    {Format::t5, {.0357, .0384, .0383}, {.0310, .0337, .0340}},
    {Format::nl6, {.0209, .0245, .0244}, {.0196, .0233, .0261}},
    {Format::w8, {.0054, .0067, .0068}, {.0054, .0067, .0068}},
};

}  // namespace

TEST_CASE("error is at most 2 % above the format's description") {
  constexpr std::uint32_t rows = 8, k = 7168;
  const std::vector<float> importance = lognormal(k);
  for (const Expected& expected : table) {
    CAPTURE(std::string(info(expected.format).name));
    for (int d = 0; d < 3; ++d) {
      CAPTURE(d);
      const auto x = draw(static_cast<Distribution>(d), std::size_t{rows} * k, 1234 + static_cast<std::uint64_t>(d));
      const double plain = relative_rms(x, encode(expected.format, rows, k, x).decoded);
      CHECK(plain <= 1.02 * expected.plain[d]);
      CHECK(plain >= 0.8 * expected.plain[d]);
      const double weighted = relative_rms(x, encode(expected.format, rows, k, x, importance).decoded, importance);
      CHECK(weighted <= 1.02 * expected.weighted[d]);
      if (info(expected.format).is_trellis())
        CHECK(weighted < relative_rms(x, encode(expected.format, rows, k, x).decoded, importance));
    }
  }
}

TEST_CASE("every instruction set and the scalar search give the same bytes") {
  constexpr std::uint32_t rows = 5, k = 160;
  struct Rows {
    const char* what;
    std::vector<float> x;
  };
  std::vector<Rows> all_rows;
  for (const auto distribution : {Distribution::gauss, Distribution::laplace, Distribution::student5})
    all_rows.push_back({"random", draw(distribution, rows * k, 5)});
  auto& gauss = all_rows[0].x;
  auto huge = gauss, tiny = gauss, mixed = gauss, outliers = gauss;
  for (float& v : huge) v *= 1e36f;
  for (float& v : tiny) v *= 1e-29f;
  for (std::size_t i = 0; i < mixed.size(); ++i) mixed[i] = std::ldexp(mixed[i], static_cast<int>(i / 32 % 61) - 30);
  for (std::size_t i = 0; i < outliers.size(); i += 71) outliers[i] *= 300;
  all_rows.push_back({"huge", huge});
  all_rows.push_back({"tiny", tiny});
  all_rows.push_back({"blocks of very different size", mixed});
  all_rows.push_back({"outliers", outliers});
  all_rows.push_back({"zero", std::vector<float>(rows * k, 0.0f)});
  all_rows.push_back({"constant", std::vector<float>(rows * k, -0.37f)});
  auto few = std::vector<float>(rows * k, 0.0f);
  for (std::size_t i = 3; i < few.size(); i += 97) few[i] = 1;
  all_rows.push_back({"nearly zero", few});

  auto importance = lognormal(k);
  for (std::uint32_t i = 0; i < k; i += 19) importance[i] = i % 2 ? 0.0f : 1e6f;
  for (const Expected& expected : table) {
    for (const Effort effort : {Effort::fast, Effort::normal, Effort::best}) {
      for (const Rows& input : all_rows) {
        for (const auto& weights : {std::vector<float>(), importance}) {
          CAPTURE(std::string(info(expected.format).name));
          CAPTURE(std::string(effort_name(effort)));
          CAPTURE(std::string(input.what));
          CAPTURE(weights.empty());
          std::vector<std::byte> oracle;
          const BlobLayout layout = blob_layout(expected.format, rows, k).value();
          for (const SearchIsa isa : all_search_isas) {
            if (!machine_has(isa)) continue;
            CAPTURE(static_cast<int>(isa));
            std::vector<std::byte> blob(layout.bytes);
            encode_tensor(expected.format, layout, input.x, weights, blob, {.effort = effort, .isa = isa});
            if (isa == SearchIsa::scalar) oracle = blob;
            CHECK(blob == oracle);
          }
        }
      }
    }
  }
}

TEST_CASE("restored gain: rows are as long as what they stand for, and their codes stay") {
  constexpr std::uint32_t rows = 7, k = 1024;
  const auto x = draw(Distribution::student5, rows * k, 6);
  const auto importance = lognormal(k);
  for (const Expected& expected : table) {
    CAPTURE(std::string(info(expected.format).name));
    for (const auto& weights : {std::vector<float>(), importance}) {
      const Blob shortened = encode(expected.format, rows, k, x, weights);
      const Blob restored = encode(expected.format, rows, k, x, weights, {.restore_gain = true});
      CHECK(std::equal(shortened.bytes.begin() + static_cast<std::ptrdiff_t>(shortened.layout.panels_offset_bytes),
                       shortened.bytes.end(),
                       restored.bytes.begin() + static_cast<std::ptrdiff_t>(restored.layout.panels_offset_bytes)));
      for (std::uint32_t r = 0; r < rows; ++r) {
        double signal = 0, before = 0, after = 0;
        for (std::uint32_t i = 0; i < k; ++i) {
          const double w = weights.empty() ? 1.0 : weights[i], v = x[r * k + i];
          signal += w * v * v;
          before += w * v * shortened.decoded[r * k + i];
          after += w * v * restored.decoded[r * k + i];
        }
        CHECK(std::fabs(after / signal - 1) < 1e-4);
        if (expected.format == Format::t2) CHECK(before / signal < 0.97);
      }
      const double error = relative_rms(x, restored.decoded, weights);
      CHECK(error < 1.06 * relative_rms(x, shortened.decoded, weights));
    }
  }
}

TEST_CASE("panels encoded by many threads in any order give the same bytes") {
  constexpr std::uint32_t rows = 120, k = 160;
  const auto x = draw(Distribution::laplace, rows * k, 3);
  for (const Format format : all_formats) {
    CAPTURE(std::string(info(format).name));
    const Blob whole = encode(format, rows, k, x);
    const BlobLayout& layout = whole.layout;
    std::vector<float> sample;
    for (std::uint32_t i = 0; i < n_sample_rows(rows); ++i) {
      const auto* row = x.data() + sample_row_index(rows, i) * k;
      sample.insert(sample.end(), row, row + k);
    }
    const TensorEncoding encoding = prepare_encoding(format, layout, sample, n_sample_rows(rows), {});
    std::vector<std::byte> panels(layout.n_panels * layout.panel_bytes);
    std::vector<std::thread> threads;
    for (std::uint32_t t = 0; t < 3; ++t) {
      threads.emplace_back([&, t] {
        for (std::uint32_t i = 0; i < layout.n_panels; ++i) {
          const std::uint32_t panel = layout.n_panels - 1 - i;
          float scale[16];
          if (panel % 3 == t)
            encode_panel(encoding, panel, x.data() + panel * 16 * k, {}, panels.data() + panel * layout.panel_bytes,
                         scale);
        }
      });
    }
    for (auto& thread : threads) thread.join();
    CHECK(std::memcmp(panels.data(), whole.bytes.data() + layout.panels_offset_bytes,
                      layout.bytes - layout.panels_offset_bytes) == 0);
  }
}

TEST_CASE("odd shapes are padded") {
  for (const Format format : all_formats) {
    for (const std::uint32_t rows : {1u, 5u, 17u, 40u}) {
      for (const std::uint32_t k : {1u, 31u, 33u, 100u, 129u, 320u}) {
        CAPTURE(std::string(info(format).name));
        CAPTURE(rows);
        CAPTURE(k);
        const auto x = draw(Distribution::gauss, std::size_t{rows} * k, 9);
        const Blob blob = encode(format, rows, k, x);
        CHECK(relative_rms(x, blob.decoded) < 0.35);
        if (!info(format).is_packed()) continue;
        for (std::uint32_t r = rows; r < blob.layout.rows_padded; ++r) {
          float scale = 1;
          std::memcpy(&scale, blob.bytes.data() + blob.layout.row_scale_offset_bytes + r * 4, 4);
          CHECK(scale == 0);
          check_zero_row(blob, format, r);
        }
      }
    }
  }
}

TEST_CASE("zeros, extremes, outliers and what is not a number") {
  constexpr std::uint32_t rows = 16, k = 128;
  for (const Format format : all_formats) {
    CAPTURE(std::string(info(format).name));
    const std::vector<float> zeros(rows * k, 0.0f);
    CHECK(encode(format, rows, k, zeros).decoded == zeros);

    auto x = draw(Distribution::gauss, rows * k, 21);
    auto huge = x, tiny = x, outlier = x, broken = x;
    for (float& v : huge) v *= 1e30f;
    for (float& v : tiny) v *= 1e-20f;
    const double error = relative_rms(x, encode(format, rows, k, x).decoded);
    CHECK(relative_rms(huge, encode(format, rows, k, huge).decoded) == doctest::Approx(error).epsilon(0.02));
    CHECK(relative_rms(tiny, encode(format, rows, k, tiny).decoded) == doctest::Approx(error).epsilon(0.02));
    auto denormal = x;  // below what f32 scales can hold: zero in packed formats, never more
    for (float& v : denormal) v *= 1e-42f;
    for (const float v : encode(format, rows, k, denormal).decoded) CHECK(std::fabs(v) < 1e-41f);
    outlier[5] = 1000;
    CHECK(std::fabs(encode(format, rows, k, outlier).decoded[5] - 1000) < 300);
    broken[7] = NAN;
    broken[8] = INFINITY;
    for (const float v : encode(format, rows, k, broken).decoded) CHECK(std::isfinite(v));
  }
}

TEST_CASE("an outlier of little importance does not spoil its row") {
  constexpr std::uint32_t rows = 4, k = 2048, outlier = 100;
  const auto x = draw(Distribution::gauss, rows * k, 4);
  std::vector<float> importance(k, 1.0f);
  importance[outlier] = 0;
  for (const Expected& expected : table) {
    CAPTURE(std::string(info(expected.format).name));
    if (expected.format == Format::w8) continue;  // never clips, whatever the importance
    const double error = relative_rms(x, encode(expected.format, rows, k, x).decoded, importance);
    for (const float size : {20.0f, 50.0f, 200.0f}) {
      CAPTURE(size);
      auto spoilt = x;
      for (std::uint32_t r = 0; r < rows; ++r) spoilt[r * k + outlier] = r & 1 ? size : -size;
      const Blob blob = encode(expected.format, rows, k, spoilt, importance);
      CHECK(relative_rms(spoilt, blob.decoded, importance) < 1.05 * error);
    }
  }
}

TEST_CASE("every finite row decodes to finite values") {
  constexpr std::uint32_t rows = 16, k = 160;
  std::mt19937_64 engine(8);
  const auto random_size = [&] { return std::ldexp(1.0f, static_cast<int>(engine() % 277) - 149); };
  for (const Format format : all_formats) {
    CAPTURE(std::string(info(format).name));
    for (int round = 0; round < 20; ++round) {
      auto x = draw(Distribution::student5, rows * k, engine());
      auto importance = lognormal(k);
      const float size = random_size();
      for (float& v : x) v = std::clamp(v * (round & 1 ? size : random_size()), -3.4e38f, 3.4e38f);
      if (round & 2)
        for (float& v : importance) v = random_size();
      if (round == 0) std::fill(x.begin(), x.end(), 3.4e38f);
      const EncodeOptions options = {.restore_gain = round % 3 == 0};
      for (const float v : encode(format, rows, k, x, importance, options).decoded) REQUIRE(std::isfinite(v));
    }
  }
}

TEST_CASE("importance that is zero, negative or not finite is survived") {
  constexpr std::uint32_t rows = 4, k = 64;
  const auto x = draw(Distribution::gauss, rows * k, 2);
  for (const float bad : {0.0f, -1.0f, NAN, INFINITY}) {
    std::vector<float> importance(k, 1.0f);
    importance[3] = bad;
    const Blob blob = encode(Format::t3, rows, k, x, importance);
    for (const float v : blob.decoded) CHECK(std::isfinite(v));
    CHECK(encode(Format::t3, rows, k, x, std::vector<float>(k, bad)).decoded == encode(Format::t3, rows, k, x).decoded);
  }
}

TEST_CASE("layouts refuse sizes that overflow") {
  CHECK_FALSE(blob_layout(Format::t4, 0, 1));
  CHECK_FALSE(blob_layout(Format::t4, 1, 0));
  CHECK_FALSE(blob_layout(Format::t4, std::uint64_t{1} << 31, 1));
  CHECK_FALSE(blob_layout(Format::f32, ~std::uint64_t{0}, 2));
  CHECK_FALSE(blob_layout(Format::f32, 0x7fffffff, 0x7fffffff));
  CHECK(blob_layout(Format::t2, 0x7fffffff, 128).has_value());
  CHECK(blob_layout(Format::t2, 129280, 7168)->n_panels == 8080);
}
