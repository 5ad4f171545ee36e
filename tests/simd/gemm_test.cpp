// Batches of every instruction set against the scalar GEMV, bit for bit.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "gemm_tile.h"
#include "machine_isas.h"
#include "matrices.h"
#include "simd/kernels.h"

using namespace r1;
using namespace r1::simd;
using quant::Format;

namespace {

std::size_t ldy_of(const Matrix& m) {
  return std::size_t{m.view.layout.n_panels} * quant::panel_rows + 3;
}

// All tokens and panels by the kernels that others are compared with.
std::vector<float> reference_product(const Kernels& kernels, const Matrix& m, const Activations& x) {
  const std::size_t ldy = ldy_of(m);
  std::vector<float> y(x.n_tokens * ldy);
  for (std::uint32_t t = 0; t < x.n_tokens; t += max_gemv_tokens) {
    kernels.gemv[static_cast<int>(m.view.format)](m.view, x, t, std::min(max_gemv_tokens, x.n_tokens - t), 0,
                                                  m.view.layout.n_panels, y.data() + t * ldy, ldy);
  }
  return y;
}

// gemm over some tokens and panels writes those values, and nothing else.
void check_part(const Kernels& kernels, const Matrix& m, const Activations& x, const std::vector<float>& reference,
                const GemmTile& tile, std::uint32_t token_begin, std::uint32_t n_tokens, std::uint32_t panel_begin,
                std::uint32_t panel_end) {
  CAPTURE(token_begin);
  CAPTURE(n_tokens);
  CAPTURE(panel_begin);
  CAPTURE(panel_end);
  const std::size_t ldy = ldy_of(m);
  std::vector<float> y(n_tokens * ldy, -7.0f), expected = y;
  const std::size_t row_begin = panel_begin * quant::panel_rows,
                    row_end = std::min(panel_end * quant::panel_rows, m.view.layout.rows);
  for (std::size_t t = 0; t < n_tokens; ++t) {
    for (std::size_t r = row_begin; r < row_end; ++r) expected[t * ldy + r] = reference[(token_begin + t) * ldy + r];
  }
  kernels.gemm[static_cast<int>(m.view.format)](m.view, x, token_begin, n_tokens, panel_begin, panel_end, y.data(), ldy,
                                                tile.get());
  CHECK(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)) == 0);
}

}  // namespace

TEST_CASE("batches of any size equal the scalar kernel's single tokens bit for bit") {
  const auto tables = tested_tables();
  const Kernels& scalar = *kernels_for(Isa::scalar);
  const GemmTile tile;
  for (const Format format : quant::all_formats) {
    if (!quant::info(format).is_packed()) continue;
    CAPTURE(quant::info(format).name);
    const Matrix m(format, 75, 700, 11);  // five panels, the last with a tail; six superchunks, the last with a tail
    const Batch batch(scalar, 43, 700, 5);
    const auto reference = reference_product(scalar, m, batch.view);
    for (const Kernels* kernels : tables) {
      CAPTURE(isa_name(kernels->isa));
      for (std::uint32_t n = 1; n <= 20; ++n) check_part(*kernels, m, batch.view, reference, tile, 43 - n, n, 0, 5);
      check_part(*kernels, m, batch.view, reference, tile, 0, 43, 0, 5);
      for (std::uint32_t begin = 0; begin < 5; ++begin) {
        for (std::uint32_t end = begin; end <= 5; ++end)
          check_part(*kernels, m, batch.view, reference, tile, begin, 13, begin, end);
      }
    }
  }
}

TEST_CASE("large odd batches and wide matrices equal the scalar kernel's single tokens bit for bit") {
  const auto tables = tested_tables();
  const Kernels& scalar = *kernels_for(Isa::scalar);
  const GemmTile tile;
  for (const Format format : {Format::t2, Format::t3_5, Format::t4h, Format::w8}) {
    CAPTURE(quant::info(format).name);
    const Matrix narrow(format, 33, 100, 1), wide(format, 5, 7168, 2);
    const Batch many(scalar, 1031, 100, 3), few(scalar, 11, 7168, 4);
    const auto reference_many = reference_product(scalar, narrow, many.view);
    const auto reference_few = reference_product(scalar, wide, few.view);
    for (const Kernels* kernels : tables) {
      CAPTURE(isa_name(kernels->isa));
      check_part(*kernels, narrow, many.view, reference_many, tile, 0, 1031, 0, 3);
      check_part(*kernels, narrow, many.view, reference_many, tile, 700, 257, 1, 3);
      check_part(*kernels, wide, few.view, reference_few, tile, 0, 11, 0, 1);
    }
  }
}

TEST_CASE("batches of the largest codes, scales and activations do not overflow") {
  const auto tables = tested_tables();
  const Kernels& scalar = *kernels_for(Isa::scalar);
  const GemmTile tile;
  for (const Format format : quant::all_formats) {
    if (!quant::info(format).is_packed()) continue;
    CAPTURE(quant::info(format).name);
    Matrix m(format, 32, 256, 1);
    const Batch batch(scalar, 9, 256, 3, true);
    for (int pattern = 0; pattern < 256; pattern += pattern < 8 || pattern >= 247 ? 1 : 17) {
      CAPTURE(pattern);
      std::fill(m.memory.begin() + static_cast<std::ptrdiff_t>(m.view.layout.panels_offset_bytes), m.memory.end(),
                static_cast<std::byte>(pattern));
      const auto reference = reference_product(scalar, m, batch.view);
      for (const Kernels* kernels : tables) {
        CAPTURE(isa_name(kernels->isa));
        check_part(*kernels, m, batch.view, reference, tile, 0, 9, 0, 2);
      }
    }
  }
}

// bf16 and f32: bit-equal to the same table's single tokens, where a batch is not handed to oneDNN.
TEST_CASE("batches of plain matrices equal single tokens") {
  const GemmTile tile;
  for (const Format format : {Format::bf16, Format::f32}) {
    CAPTURE(quant::info(format).name);
    const Matrix m(format, 37, 203, 6);
    for (const Kernels* kernels : tested_tables()) {
      CAPTURE(isa_name(kernels->isa));
      const Batch batch(*kernels, 21, 203, 7);
      const auto reference = reference_product(*kernels, m, batch.view);
      for (const std::uint32_t n : {1u, 9u, 16u, 21u})
        check_part(*kernels, m, batch.view, reference, tile, 21 - n, n, 0, 3);
      check_part(*kernels, m, batch.view, reference, tile, 0, 21, 1, 2);
    }
  }
}
