// Prefill attention against a softmax in double, every instruction set against the others, and any number of queries
// against one at a time.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "simd/kernels.h"
#include "tests/simd/machine_isas.h"

using namespace r1::simd;

namespace {

constexpr float log2_e = 1.44269504f;

std::vector<float> normals(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

// A sequence of keys and values in pages, and queries of which the last sees all rows.
struct Problem {
  PrefillShape shape;
  std::uint32_t n_rows = 0, n_queries = 0, per_token = 1;
  std::vector<float> q, k, v;

  Problem(PrefillShape s, std::uint32_t rows, std::uint32_t queries, std::uint32_t queries_per_token)
      : shape(s), n_rows(rows), n_queries(queries), per_token(queries_per_token) {
    const std::size_t d = shape.width[0] + shape.width[1];
    q = normals(n_queries * d, 1);
    k = normals(n_rows * d, 2);
    v = normals(std::size_t{n_rows} * shape.d_v, 3);
    for (std::size_t i = 0; i < d; ++i) k[i] *= 2;  // one row that draws more attention than the others
    for (float& x : q) x *= 1.5f / std::sqrt(static_cast<float>(d));
  }
  [[nodiscard]] std::uint32_t visible(std::uint32_t query) const {
    return n_rows - (n_queries - 1) / per_token + query / per_token;
  }

  [[nodiscard]] std::vector<double> expected() const {
    const std::size_t d = shape.width[0] + shape.width[1];
    std::vector<double> out(std::size_t{n_queries} * shape.d_v);
    for (std::uint32_t query = 0; query < n_queries; ++query) {
      double sum = 0;
      for (std::uint32_t row = 0; row < visible(query); ++row) {
        double score = 0;
        for (std::size_t i = 0; i < d; ++i) score += static_cast<double>(q[query * d + i]) * k[row * d + i];
        sum += std::exp(score);
        for (std::size_t i = 0; i < shape.d_v; ++i)
          out[query * shape.d_v + i] += std::exp(score) * v[std::size_t{row} * shape.d_v + i];
      }
      for (std::size_t i = 0; i < shape.d_v; ++i) out[query * shape.d_v + i] /= sum;
    }
    return out;
  }

  // `at_once` queries a call.
  [[nodiscard]] std::vector<float> run(const Kernels& kernels, std::uint32_t at_once) const {
    PrefillShape packed = shape;
    packed.tiles = kernels.prefill_tiles && may_have_tiles(shape);
    const std::size_t d = packed.width[0] + packed.width[1];
    std::vector<std::byte> codes(n_queries * packed.query_bytes()), keys[2], values(packed.value_bytes());
    std::vector<float> scale(2 * n_queries), max(n_queries, prefill_no_max), sum(n_queries),
        out(std::size_t{n_queries} * packed.d_v);
    std::vector<std::int32_t> sums(2 * n_queries);
    for (std::uint32_t i = 0; i < n_queries; ++i) {
      pack_prefill_query(packed, q.data() + i * d, log2_e, codes.data() + i * packed.query_bytes(), &scale[2 * i],
                         &sums[2 * i]);
    }
    std::vector<float> key_scale[2], value_scale(prefill_page_rows), value_scale_max(prefill_page_rows);
    for (int part = 0; part < 2; ++part) {
      keys[part].resize(packed.key_bytes(part));
      key_scale[part].resize(prefill_page_rows, std::numeric_limits<float>::quiet_NaN());  // of rows not seen
    }
    for (std::uint32_t first = 0; first < n_rows; first += prefill_page_rows) {
      const std::uint32_t n = std::min(prefill_page_rows, n_rows - first);
      PrefillKeys page_keys;
      for (int part = 0; part < packed.parts(); ++part) {
        pack_prefill_keys(packed, part, k.data() + first * d + (part == 0 ? 0 : packed.width[0]), d, 0, n,
                          keys[part].data(), packed.key_block_bytes(part), key_scale[part].data());
        page_keys.codes[part] = keys[part].data();
        page_keys.block_bytes[part] = packed.key_block_bytes(part);
        page_keys.scale[part] = key_scale[part].data();
      }
      pack_prefill_values(packed, v.data() + std::size_t{first} * packed.d_v, packed.d_v, n, values.data(),
                          value_scale.data());
      prefill_scale_max(value_scale.data(), n, value_scale_max.data());
      const PrefillValues page_values{values.data(), value_scale.data(), value_scale_max.data()};
      for (std::uint32_t i = 0; i < n_queries; i += at_once) {
        std::uint32_t begin = i;
        const std::uint32_t end = std::min(n_queries, i + at_once);
        while (begin < end && visible(begin) <= first) ++begin;
        if (begin == end) continue;
        // A call's first query decides what the others see: cut where a token begins.
        while (begin < end) {
          const std::uint32_t stop =
              at_once == 1 || begin % per_token == 0 ? end : std::min(end, begin + per_token - begin % per_token);
          kernels.prefill_page(
              packed,
              {codes.data() + begin * packed.query_bytes(), packed.query_bytes(), &scale[2 * begin], &sums[2 * begin]},
              stop - begin, visible(begin) - first, per_token, page_keys, page_values,
              {&max[begin], &sum[begin], &out[std::size_t{begin} * packed.d_v], packed.d_v});
          begin = stop;
        }
      }
    }
    for (std::uint32_t i = 0; i < n_queries; ++i) {
      for (std::uint32_t j = 0; j < packed.d_v; ++j) out[i * packed.d_v + j] /= sum[i];
    }
    return out;
  }
};

double rms(const std::vector<double>& x) {
  double squares = 0;
  for (const double value : x) squares += value * value;
  return std::sqrt(squares / static_cast<double>(x.size()));
}

const Problem problems[] = {
    {{PrefillKind::i8, {128, 64}, 128}, 600, 30, 1}, {{PrefillKind::i16, {128, 64}, 128}, 600, 30, 1},
    {{PrefillKind::i8, {64, 0}, 64}, 300, 35, 5},    {{PrefillKind::i16, {64, 0}, 64}, 300, 35, 5},
    {{PrefillKind::i8, {17, 6}, 21}, 20, 19, 1},     {{PrefillKind::i16, {17, 6}, 21}, 20, 19, 1},
    {{PrefillKind::i8, {48, 32}, 40}, 1, 1, 1},      {{PrefillKind::i16, {48, 32}, 40}, 257, 2, 1},
    {{PrefillKind::i8, {128, 64}, 128}, 300, 95, 1}, {{PrefillKind::i8, {64, 64}, 40}, 280, 56, 4},
    {{PrefillKind::i16, {128, 0}, 128}, 300, 49, 7}, {{PrefillKind::i16, {64, 64}, 48}, 280, 95, 1},
    {{PrefillKind::i8, {1040, 64}, 40}, 20, 19, 1},
};

}  // namespace

TEST_CASE("prefill attention: the softmax's sums, with every instruction set the same bits, alone or together") {
  for (const Problem& problem : problems) {
    const bool bytes = problem.shape.kind == PrefillKind::i8;
    CAPTURE(bytes);
    CAPTURE(problem.n_rows);
    const std::vector<double> expected = problem.expected();
    std::vector<float> first;
    for (const Kernels* kernels : attention_tables()) {
      CAPTURE(isa_name(kernels->isa));
      const std::vector<float> got = problem.run(*kernels, problem.n_queries);
      std::vector<double> off(expected.size());
      for (std::size_t i = 0; i < off.size(); ++i) off[i] = got[i] - expected[i];
      CHECK(rms(off) <= (bytes ? 4e-2 : 1e-3) * rms(expected));
      CHECK((first.empty() || got == first));
      if (first.empty() || kernels->prefill_tiles) {  // the emulator is slow
        for (const std::uint32_t at_once : {1, 7, 33}) CHECK(problem.run(*kernels, at_once) == got);
      }
      first = got;
    }
  }
}

TEST_CASE("prefill attention: NaN and infinity are noticed, extremes are not") {
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()};
  const auto check = [&](const Kernels& kernels, PrefillKind kind) {
    CAPTURE(isa_name(kernels.isa));
    const Problem good({kind, {64, 64}, 32}, 40, 4, 1);
    const auto all_nan = [&](const Problem& problem) {
      const std::vector<float> got = problem.run(kernels, 4);
      return std::all_of(got.begin(), got.end(), [](float x) { return std::isnan(x); });
    };
    for (const float x : bad) {
      for (const int where : {0, 1, 2}) {
        Problem problem = good;
        (where == 0 ? problem.q : where == 1 ? problem.k : problem.v)[40] = x;
        if (where == 0) problem.n_queries = 1;
        CHECK(all_nan(problem));
      }
    }
    Problem extreme = good;
    for (float& x : extreme.k) x = 100;  // every sum of products at its largest
    for (float& x : extreme.q) x = 100;
    for (float& x : extreme.v) x = 3e30f;
    const std::vector<float> got = extreme.run(kernels, 4);
    for (const float x : got) CHECK(x == doctest::Approx(3e30f).epsilon(0.01));
    for (float& x : extreme.k) x = 0;
    for (float& x : extreme.q) x = 1e-38f;
    for (float& x : extreme.v) x = 0;
    for (const float x : extreme.run(kernels, 4)) CHECK(x == 0);
  };
  for (const Kernels* kernels : attention_tables()) {
    if (kernels != attention_tables().front() && kernels != choose_kernels("", nullptr) && !kernels->prefill_tiles)
      continue;  // the emulator is slow
    check(*kernels, PrefillKind::i8);
    check(*kernels, PrefillKind::i16);
  }
}
