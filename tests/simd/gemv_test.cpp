// Matrix kernels of every instruction set against the scalar decoder in double precision, and against each other bit
// for bit.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "machine_isas.h"
#include "matrices.h"
#include "quant/decode.h"
#include "quant/encode.h"
#include "quant/fp8.h"
#include "simd/kernels.h"
#include "simd/trellis_shape.h"

using namespace r1;
using namespace r1::simd;
using quant::Format;

namespace {

// What the contract promises, in double: the integers are exact, the rest rounds a few times per superchunk.
void check_against_decoder(const Matrix& m, const Activations& x, std::uint32_t token, std::uint32_t row, float y) {
  double sum = 0, magnitude = 0;
  const std::uint32_t k = m.view.layout.k;
  for (std::uint32_t i = 0; i < k; ++i) {
    const double activation =
        quant::info(m.view.format).is_packed()
            ? static_cast<double>(x.q[token * x.q_stride + i]) * x.scale[token * (x.k_padded / 128) + i / 128]
            : static_cast<double>(x.x[token * x.k_padded + i]);
    const double product = m.decoded[std::size_t{row} * k + i] * activation;
    sum += product;
    magnitude += std::fabs(product);
  }
  CHECK(std::fabs(y - sum) <= 2e-6 * magnitude + 1e-30);
}

}  // namespace

TEST_CASE("every kernel equals the scalar decoder, and all instruction sets agree bit for bit") {
  const auto tables = row_kernel_tables();
  REQUIRE(tables.size() >= 2);
  for (const Format format : quant::all_formats) {
    for (const std::uint32_t rows : {1u, 5u, 17u, 40u, 64u, 149u}) {
      for (const std::uint32_t k : {1u, 33u, 128u, 320u, 4096u, 7168u}) {
        if (k > 320 && rows != 17) continue;  // one matrix as wide as R1, and one whose rows lie a line further apart
        CAPTURE(quant::info(format).name);
        CAPTURE(rows);
        CAPTURE(k);
        const Matrix m(format, rows, k, rows * 1000 + k);
        for (std::uint32_t n_tokens = 1; n_tokens <= max_gemv_tokens; ++n_tokens) {
          const Batch batch(*tables[0], n_tokens, k, n_tokens);
          const std::size_t ldy = m.view.layout.n_panels * 16 + 3;
          std::vector<float> reference;
          for (const Kernels* kernels : tables) {
            CAPTURE(isa_name(kernels->isa));
            std::vector<float> y(n_tokens * ldy, -7.0f);
            kernels->gemv[static_cast<int>(format)](m.view, batch.view, 0, n_tokens, 0, m.view.layout.n_panels,
                                                    y.data(), ldy);
            if (reference.empty()) {
              for (std::uint32_t t = 0; t < n_tokens; ++t) {
                for (std::uint32_t r = 0; r < rows; ++r) check_against_decoder(m, batch.view, t, r, y[t * ldy + r]);
                for (std::size_t r = rows; r < ldy; ++r)
                  CHECK(y[t * ldy + r] == -7.0f);  // rows beyond the matrix are not touched
              }
              reference = y;
            } else {
              CHECK(std::memcmp(y.data(), reference.data(), y.size() * sizeof(float)) == 0);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("a row's result does not depend on the panels, tokens or position in the batch") {
  for (const Kernels* kernels : row_kernel_tables()) {
    CAPTURE(isa_name(kernels->isa));
    for (const Format format : quant::all_formats) {
      CAPTURE(quant::info(format).name);
      const Matrix m(format, 88, 384, 4);
      const Batch batch(*kernels, 8, 384, 9);
      std::vector<float> whole(8 * 96), single(8 * 96);
      const GemvFn gemv = kernels->gemv[static_cast<int>(format)];
      gemv(m.view, batch.view, 0, 8, 0, m.view.layout.n_panels, whole.data(), 96);
      for (std::uint32_t t = 0; t < 8; ++t) {
        for (std::uint32_t p = 0; p < m.view.layout.n_panels; ++p)
          gemv(m.view, batch.view, t, 1, p, p + 1, single.data() + t * 96, 96);
      }
      CHECK(whole == single);
      // Every range: kernels may cut it into parts that they walk side by side.
      for (std::uint32_t begin = 0; begin < m.view.layout.n_panels; ++begin) {
        for (std::uint32_t end = begin + 1; end <= m.view.layout.n_panels; ++end) {
          std::vector<float> part(96, -7.0f), expected(96, -7.0f);
          gemv(m.view, batch.view, 2, 1, begin, end, part.data(), 96);
          const std::size_t first = std::size_t{begin} * quant::panel_rows;
          const std::size_t last = std::min<std::size_t>(std::size_t{end} * quant::panel_rows, m.view.layout.rows);
          std::copy(&whole[2 * 96 + first], &whole[2 * 96 + last], &expected[first]);
          CAPTURE(begin);
          CAPTURE(end);
          CHECK(part == expected);
        }
      }
    }
  }
}

// Every repeated byte: among them are strings of nothing but code 0 or 63 (nl6: the ends of its codebook), and scales
// from the smallest to the largest.
TEST_CASE("the largest codes, scales and activations do not overflow") {
  const auto tables = row_kernel_tables();
  for (const Format format : quant::all_formats) {
    CAPTURE(quant::info(format).name);
    if (!quant::info(format).is_packed()) continue;
    Matrix m(format, 16, 256, 1);
    const Batch batch(*tables[0], 1, 256, 3, true);
    for (int pattern = 0; pattern < 256; ++pattern) {
      CAPTURE(pattern);
      for (std::size_t i = m.view.layout.panels_offset_bytes; i < m.memory.size(); ++i)
        m.memory[i] = static_cast<std::byte>(pattern);
      quant::decode_rows(format, m.view.layout, m.memory, 0, 16, m.decoded.data());
      std::vector<float> reference;
      for (const Kernels* kernels : tables) {
        CAPTURE(isa_name(kernels->isa));
        std::vector<float> y(16);
        kernels->gemv[static_cast<int>(format)](m.view, batch.view, 0, 1, 0, 1, y.data(), 16);
        if (reference.empty()) {
          for (std::uint32_t r = 0; r < 16; ++r) check_against_decoder(m, batch.view, 0, r, y[r]);
          reference = y;
        }
        CHECK(y == reference);
      }
    }
  }
}

TEST_CASE("activations of all ±127 against the extreme weights give the exact sums") {
  // w8: −128 and 127 times ±127, every sign pattern of a quad, the case in which 16-bit sums would saturate.
  const auto tables = row_kernel_tables();
  Matrix m(Format::w8, 16, 128, 1);
  for (const int byte : {0, 1, 255}) {
    for (int signs = 0; signs < 16; ++signs) {
      CAPTURE(byte);
      CAPTURE(signs);
      for (std::size_t i = m.view.layout.panels_offset_bytes; i < m.memory.size(); ++i)
        m.memory[i] = static_cast<std::byte>(i < m.view.layout.panels_offset_bytes + 64 ? 128 : byte);  // scales 1
      for (std::uint32_t r = 0; r < 16; ++r) {
        const float one = 1;
        std::memcpy(m.memory.data() + m.view.layout.row_scale_offset_bytes + 4 * r, &one, 4);
      }
      ActivationBuffer buffer(1, 128);
      const Activations view = buffer.view(1, 128);
      int sum = 0;
      for (std::uint32_t i = 0; i < 128; ++i) {
        const int sign = signs >> (i % 4) & 1 ? -1 : 1;
        ActivationBuffer::x_row(view, 0)[i] = static_cast<float>(127 * sign);
        sum += 127 * sign * (byte - 128);
      }
      REQUIRE(tables[0]->quantize_row(view, 0));
      for (const Kernels* kernels : tables) {
        CAPTURE(isa_name(kernels->isa));
        std::vector<float> y(16);
        kernels->gemv[static_cast<int>(Format::w8)](m.view, view, 0, 1, 0, 1, y.data(), 16);
        for (const float value : y) CHECK(value == static_cast<float>(sum));
      }
    }
  }
}

TEST_CASE("kernels see the formats as they are") {
  for (const Format format : quant::all_formats) {
    const quant::FormatInfo& info = quant::info(format);
    if (!info.is_trellis()) continue;
    CAPTURE(info.name);
    const TrellisShape shape = trellis_shape(format);
    CHECK(shape.group_weights == info.group_weights);
    CHECK(shape.group_bytes == info.group_bytes);
    CHECK(shape.step_even == info.steps[0]);
    CHECK(shape.step_odd == info.steps[1]);
    CHECK(shape.s8 == (info.scale == quant::ScaleKind::s8));
    CHECK(shape.block_bytes() == info.block_bytes);
    CHECK(shape.superchunk_bytes() == info.superchunk_bytes);
    // Codebook + 64 is at most 127: pairs of products with activations stay below 2^15 in vpmaddubsw.
    CHECK(*std::min_element(info.codebook, info.codebook + 64) >= -64);
    CHECK(*std::max_element(info.codebook, info.codebook + 64) <= 63);
  }
  CHECK(w8_superchunk_bytes == quant::info(Format::w8).superchunk_bytes);
}

TEST_CASE("quantize_row: rounding, orders, sums, zeros, and what is not a number") {
  std::vector<std::pair<const Kernels*, std::uint32_t>> cases;
  for (const Kernels* kernels : machine_tables()) {
    cases.emplace_back(kernels, 300);
    cases.emplace_back(kernels, 4000);  // rows lie a line further apart
  }
  for (const auto& [kernels, k] : cases) {
    CAPTURE(isa_name(kernels->isa));
    CAPTURE(k);
    ActivationBuffer buffer(3, k);
    const Activations view = buffer.view(3, k);
    std::mt19937 engine(5);
    float* x = ActivationBuffer::x_row(view, 1);
    for (std::uint32_t i = 0; i < view.k_padded; ++i)
      x[i] = i < k ? static_cast<float>(static_cast<int>(engine() % 255) - 127) : 99.0f;
    x[0] = 127;  // scale 1 in the first block: ties show
    x[1] = 0.5f;
    x[2] = 1.5f;
    x[3] = -2.5f;
    std::fill(x + 128, x + 256, 0.0f);
    REQUIRE(kernels->quantize_row(view, 1));
    const std::int8_t *q = view.q + view.q_stride, *q2 = view.q_step2 + view.q_stride,
                      *q4 = view.q_step4 + view.q_stride;
    const float* scale = view.scale + view.k_padded / 128;
    CHECK(scale[0] == 1.0f);
    CHECK(scale[1] == 0.0f);
    CHECK((q[1] == 0 && q[2] == 2 && q[3] == -2));
    for (std::uint32_t i = 0; i < view.k_padded; ++i) {
      const float expected = scale[i / 128] > 0 ? std::nearbyint(x[i] / scale[i / 128]) : 0.0f;
      CHECK(static_cast<float>(q[i]) == expected);
      if (i >= k) CHECK(x[i] == 0);
    }
    for (std::uint32_t b = 0; b < view.k_padded; b += 32) {
      int sum = 0;
      for (std::uint32_t i = 0; i < 32; ++i) sum += q[b + i];
      CHECK(view.block_sum[view.k_padded / 32 + b / 32] == sum);
      for (std::uint32_t s = 0; s < 4; ++s) {
        for (std::uint32_t i = 0; i < 8; ++i) CHECK(q2[b + 8 * s + i] == q[b + 4 * i + s]);
      }
      for (std::uint32_t g = 0; g < 32; g += 16) {
        for (std::uint32_t s = 0; s < 2; ++s) {
          for (std::uint32_t i = 0; i < 8; ++i) CHECK(q4[b + g + 8 * s + i] == q[b + g + 2 * i + s]);
        }
      }
    }
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      x[200] = bad;
      CHECK_FALSE(kernels->quantize_row(view, 1));
      for (std::uint32_t i = 0; i < view.k_padded; ++i) CHECK(q[i] == 0);
    }
  }
}

TEST_CASE("oneDNN's products agree with the kernels'") {
  const Kernels& kernels = *machine_tables().front();
  for (const Format format : {Format::f32, Format::bf16}) {
    const Matrix m(format, 150, 200, 8);
    constexpr std::uint32_t n_tokens = 40;
    const Batch batch(kernels, n_tokens, 200, 2);
    std::vector<float> ours(n_tokens * 160), theirs(n_tokens * 160);
    for (std::uint32_t t = 0; t < n_tokens; t += 8) {
      kernels.gemv[static_cast<int>(format)](m.view, batch.view, t, 8, 0, m.view.layout.n_panels, ours.data() + t * 160,
                                             160);
    }
    gemm_onednn(m.view, batch.view, 0, n_tokens, 0, 4, theirs.data(), 160);
    gemm_onednn(m.view, batch.view, 0, n_tokens, 4, m.view.layout.n_panels, theirs.data(), 160);
    for (std::size_t i = 0; i < ours.size(); ++i) CHECK(ours[i] == doctest::Approx(theirs[i]).epsilon(1e-4));
  }
}

TEST_CASE("an instruction set can be asked for by name, and is refused with a reason") {
  std::string why;
  REQUIRE(choose_kernels("", &why) != nullptr);
  CHECK(choose_kernels("avx2", &why)->isa == Isa::avx2);
  CHECK(choose_kernels("scalar", &why)->isa == Isa::scalar);
  CHECK(choose_kernels("sse9", &why) == nullptr);
  CHECK(why.find("sse9") != std::string::npos);
  CHECK(why.find("avx2") != std::string::npos);
  REQUIRE(isa_report("").size() == n_isas);
  for (const auto& line : isa_report("")) {
    const std::string name = isa_name(line.isa);
    CAPTURE(name);
    CHECK(line.available == (choose_kernels(name, &why) != nullptr));
    CHECK(line.available == (kernels_for(line.isa) != nullptr));
    if (line.available) {
      CHECK(kernels_for(line.isa)->isa == line.isa);
    } else {
      CHECK(line.reason.find("lacks") != std::string::npos);
      CHECK(why.find(name) != std::string::npos);
    }
  }
  int used = 0;
  for (const auto& line : isa_report("")) used += line.reason == "used";
  CHECK(used == 1);
}
