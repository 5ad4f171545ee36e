// Batches of every instruction set against the scalar GEMV, bit for bit.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "gemm_check.h"
#include "machine_isas.h"
#include "matrices.h"
#include "simd/kernels.h"

using namespace r1;
using namespace r1::simd;
using quant::Format;

TEST_CASE("batches of any size equal the scalar kernel's single tokens bit for bit") {
  const auto tables = tested_tables();
  const Kernels& scalar = *kernels_for(Isa::scalar);
  const GemmTile tile;
  for (const Format format : quant::all_formats) {
    if (!quant::info(format).is_packed()) continue;
    CAPTURE(quant::info(format).name);
    const Matrix m(format, 75, 700, 11);  // five panels, the last with a tail; six superchunks, the last with a tail
    const Batch batch(scalar, 43, 700, 5);
    const auto reference = gemv_product(scalar, m, batch.view);
    for (const Kernels* kernels : tables) {
      CAPTURE(isa_name(kernels->isa));
      for (std::uint32_t n = 1; n <= 20; ++n)
        check_part(kernels->gemm[format_index(m)], m, batch.view, reference, tile, 43 - n, n, 0, 5);
      check_part(kernels->gemm[format_index(m)], m, batch.view, reference, tile, 0, 43, 0, 5);
      for (std::uint32_t begin = 0; begin < 5; ++begin) {
        for (std::uint32_t end = begin; end <= 5; ++end)
          check_part(kernels->gemm[format_index(m)], m, batch.view, reference, tile, begin, 13, begin, end);
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
    const Matrix narrow(format, 33, 100, 1), wide(format, 5, 8100, 2);
    const Batch many(scalar, 1031, 100, 3), few(scalar, 11, 8100, 4);
    const auto reference_many = gemv_product(scalar, narrow, many.view);
    const auto reference_few = gemv_product(scalar, wide, few.view);
    for (const Kernels* kernels : tables) {
      CAPTURE(isa_name(kernels->isa));
      check_part(kernels->gemm[format_index(narrow)], narrow, many.view, reference_many, tile, 0, 1031, 0, 3);
      check_part(kernels->gemm[format_index(narrow)], narrow, many.view, reference_many, tile, 700, 257, 1, 3);
      check_part(kernels->gemm[format_index(wide)], wide, few.view, reference_few, tile, 0, 11, 0, 1);
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
      const auto reference = gemv_product(scalar, m, batch.view);
      for (const Kernels* kernels : tables) {
        CAPTURE(isa_name(kernels->isa));
        check_part(kernels->gemm[format_index(m)], m, batch.view, reference, tile, 0, 9, 0, 2);
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
      const auto reference = gemv_product(*kernels, m, batch.view);
      for (const std::uint32_t n : {1u, 9u, 16u, 21u})
        check_part(kernels->gemm[format_index(m)], m, batch.view, reference, tile, 21 - n, n, 0, 3);
      check_part(kernels->gemm[format_index(m)], m, batch.view, reference, tile, 0, 21, 1, 2);
    }
  }
}
