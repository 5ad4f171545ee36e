// Wide batches: AMX's, where the machine has it, and the same code over tiles in plain code, where it has AVX-512 VBMI.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "folded.h"
#include "gemm_check.h"
#include "matrices.h"
#include "quant/encode.h"
#include "simd/kernels.h"
#include "wide_tables.h"

using namespace r1;
using namespace r1::simd;
using quant::Format;

namespace {

bool folds(Format format) {
  return format <= Format::t5;  // of the packed ones; the others: wide_bf16_gemm_test.cpp
}

// By the contract: [n_tokens, ldy].
std::vector<float> reference_product(const Matrix& m, const Activations& x) {
  const std::size_t ldy = ldy_of(m);
  std::vector<float> y(x.n_tokens * ldy);
  const Folded folded(m.view);
  for (std::uint32_t t = 0; t < x.n_tokens; ++t) {
    for (std::uint32_t row = 0; row < m.view.rows(); ++row) y[t * ldy + row] = folded.product(m.view, x, t, row);
  }
  return y;
}

double relative_rms(const std::vector<float>& x, const std::vector<float>& y) {
  double error = 0, signal = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    error += (static_cast<double>(x[i]) - y[i]) * (static_cast<double>(x[i]) - y[i]);
    signal += static_cast<double>(x[i]) * x[i];
  }
  return std::sqrt(error / signal);
}

}  // namespace

TEST_CASE("wide batches of any size and any panels are the contract's to the bit") {
  const Kernels& scalar = *kernels_for(Isa::scalar);
  const GemmTile tile;
  const auto tables = wide_tables();
  for (const Format format : quant::all_formats) {
    if (!quant::info(format).is_packed() || !folds(format)) continue;
    CAPTURE(quant::info(format).name);
    const Matrix m(format, 75, 700, 11);  // five panels, the last with a tail; six superchunks, the last with a tail
    const Batch batch(scalar, 67, 700, 5);
    const auto reference = reference_product(m, batch.view);
    for (const Wide& wide : tables) {
      CAPTURE(wide.name);
      REQUIRE((wide.kernels.wide_gemm[static_cast<int>(format)].multiply != nullptr));
      for (const std::uint32_t n : {1u, 2u, 15u, 16u, 17u, 31u, 32u, 33u, 48u, 50u, 67u})
        check_part(wide.kernels.wide_gemm[format_index(m)].multiply, m, batch.view, reference, tile, 67 - n, n, 0, 5);
      check_part(wide.kernels.wide_gemm[format_index(m)].multiply, m, batch.view, reference, tile, 3, 20, 1, 4);
      check_part(wide.kernels.wide_gemm[format_index(m)].multiply, m, batch.view, reference, tile, 0, 16, 4, 5);
      check_part(wide.kernels.wide_gemm[format_index(m)].multiply, m, batch.view, reference, tile, 0, 33, 2, 2);
    }
  }
}

TEST_CASE("wide batches of many tokens or rows and of long rows are the contract's to the bit") {
  const Kernels& scalar = *kernels_for(Isa::scalar);
  const GemmTile tile;
  const auto tables = wide_tables();
  for (const Format format : {Format::t3_5, Format::t5}) {
    CAPTURE(quant::info(format).name);
    const Matrix narrow(format, 18, 100, 1), wide_matrix(format, 5, 4000, 2), tall(format, 340, 300, 5);
    const Batch many(scalar, 519, 100, 3), few(scalar, 19, 4000, 4),
        few_narrow(scalar, 40, 300, 6);  // more tokens than a tile's totals have room for
    const auto reference_many = reference_product(narrow, many.view);
    const auto reference_few = reference_product(wide_matrix, few.view);
    const auto reference_tall = reference_product(tall, few_narrow.view);
    for (const Wide& wide : tables) {
      CAPTURE(wide.name);
      check_part(wide.kernels.wide_gemm[format_index(narrow)].multiply, narrow, many.view, reference_many, tile, 0, 519,
                 0, 2);
      check_part(wide.kernels.wide_gemm[format_index(wide_matrix)].multiply, wide_matrix, few.view, reference_few, tile,
                 0, 19, 0, 1);
      check_part(wide.kernels.wide_gemm[format_index(tall)].multiply, tall, few_narrow.view, reference_tall, tile, 1,
                 39, 1, 20);
    }
  }
}

TEST_CASE("wide batches of the largest codes, scales and activations do not overflow") {
  const Kernels& scalar = *kernels_for(Isa::scalar);
  const GemmTile tile;
  const auto tables = wide_tables();
  for (const Format format : quant::all_formats) {
    if (!quant::info(format).is_packed() || !folds(format)) continue;
    CAPTURE(quant::info(format).name);
    Matrix m(format, 16, 128, 1);
    const Batch batch(scalar, 16, 128, 3, true);
    for (int pattern = 0; pattern < 256; pattern += pattern < 8 || pattern >= 247 ? 1 : 17) {
      CAPTURE(pattern);
      std::fill(m.memory.begin() + static_cast<std::ptrdiff_t>(m.view.layout.panels_offset_bytes), m.memory.end(),
                static_cast<std::byte>(pattern));
      const auto reference = reference_product(m, batch.view);
      for (const Wide& wide : tables)
        check_part(wide.kernels.wide_gemm[format_index(m)].multiply, m, batch.view, reference, tile, 0, 16, 0, 1);
    }
  }
}

TEST_CASE("block scales of zero and far apart fold without a trap") {
  const Kernels& scalar = *kernels_for(Isa::scalar);
  const GemmTile tile;
  const auto tables = wide_tables();
  Matrix m(Format::t3, 32, 256, 8);
  const Batch batch(scalar, 16, 256, 9);
  for (const float least : {0.0f, 1e-6f, -1.0f}) {
    CAPTURE(least);
    std::vector<float> s4_table(16, least);
    if (least != 0) s4_table[15] = 1;
    std::memcpy(m.memory.data(), s4_table.data(), 64);
    const auto reference = reference_product(m, batch.view);
    for (const Wide& wide : tables)
      check_part(wide.kernels.wide_gemm[format_index(m)].multiply, m, batch.view, reference, tile, 0, 16, 0, 2);
  }
}

// FORMAT.md states what folding costs where a row, or 256 k of a row, share a scale: here it is 128 k. Gauss and t(5).
TEST_CASE("folded scales keep the error within the format's bound") {
  struct Bound {
    Format format;
    double gauss, student5;
  };
  constexpr std::uint32_t rows = 8, k = 7168;
  std::mt19937_64 engine(77);
  const auto uniform = [&] { return (static_cast<double>(engine() >> 11) + 0.5) * 0x1p-53; };
  const auto normal = [&] { return std::sqrt(-2 * std::log(uniform())) * std::cos(2 * M_PI * uniform()); };
  for (const Bound& bound :
       {Bound{Format::t2, .2780, .2804}, Bound{Format::t2_5, .2047, .2076}, Bound{Format::t3, .1443, .1475},
        Bound{Format::t3_5, .1058, .1113}, Bound{Format::t4, .0739, .0837}, Bound{Format::t4h, .0703, .0734},
        Bound{Format::t5, .0378, .0412}}) {
    CAPTURE(std::string(quant::info(bound.format).name));
    for (const bool tails : {false, true}) {
      CAPTURE(tails);
      std::vector<float> x(std::size_t{rows} * k);
      for (float& v : x) {
        double variance = 1;
        if (tails) {
          variance = 0;
          for (int i = 0; i < 5; ++i) variance += std::pow(normal(), 2) / 3;  // t(5)'s own is 5/3
        }
        v = static_cast<float>(normal() / std::sqrt(variance));
      }
      PackedMatrix m{bound.format, quant::blob_layout(bound.format, rows, k).value(), nullptr};
      std::vector<std::byte> blob(m.layout.bytes);
      quant::encode_tensor(bound.format, m.layout, x, {}, blob);
      m.blob = blob.data();
      const Folded folded(m);
      std::vector<float> decoded(x.size()), plain(x.size());
      quant::decode_rows(bound.format, m.layout, blob, 0, rows, plain.data());
      for (std::size_t i = 0; i < x.size(); ++i)
        decoded[i] = static_cast<float>(folded.w[i]) * folded.scale[i / 128] * m.row_scale()[i / k];
      const double error = relative_rms(x, decoded), before = relative_rms(x, plain);
      MESSAGE(std::string(quant::info(bound.format).name), std::string(tails ? " t(5) " : " Gauss "), before,
              std::string(" → "), error);
      CHECK(error <= 1.02 * (tails ? bound.student5 : bound.gauss));  // as much above as codes may be (encode_test.cpp)
      CHECK(error <= 1.04 * before);                                  // t5, t(5); the others 1.01
    }
  }
}
