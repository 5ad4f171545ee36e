// Wide batches of nl6 and w8: AMX's, where the machine has it, and the same code over tiles in plain code, where it has
// AVX-512 VBMI.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cut_weights.h"
#include "gemm_check.h"
#include "matrices.h"
#include "quant/encode.h"
#include "simd/kernels.h"
#include "wide_tables.h"

using namespace r1;
using namespace r1::simd;
using quant::Format;

namespace {

constexpr Format bf16_formats[] = {Format::nl6, Format::w8};

// Random inputs, with x as bf16 where wide batches read it.
struct WideBatch : Batch {
  std::vector<std::vector<float>> rounded;  // [n_tokens][k]

  WideBatch(std::uint32_t n_tokens, std::uint32_t k, unsigned seed, bool extreme = false)
      : Batch(*kernels_for(Isa::scalar), n_tokens, k, seed, extreme) {
    for (std::uint32_t t = 0; t < n_tokens; ++t) {
      auto& row = rounded.emplace_back(view.k_padded);
      for (std::uint32_t i = 0; i < view.k_padded; ++i) {
        const std::uint16_t bits = quant::f32_to_bf16(view.x[std::size_t{t} * view.k_padded + i]);
        const_cast<std::uint16_t*>(view.bf16)[(std::size_t{i / 32} * n_tokens + t) * 32 + i % 32] = bits;
        row[i] = quant::bf16_to_f32(bits);
      }
    }
  }
};

// `multiply` over some tokens and panels writes the contract's values there but for the rounding of sums, and nothing
// else; and the bits are those of all tokens and panels at once.
class Checked {
 public:
  Checked(GemmFn multiply, const Matrix& m, const WideBatch& batch) : multiply_(multiply), m_(m), batch_(batch) {
    all_ = product(0, batch.view.n_tokens, 0, m.view.layout.n_panels);
    const CutWeights cut(m.view);
    for (std::uint32_t t = 0; t < batch.view.n_tokens; ++t) {
      for (std::uint32_t row = 0; row < m.view.rows(); ++row) {
        double magnitude = 0;
        const double expected = cut.product(m.view, batch.rounded[t], row, &magnitude);
        worst_ = std::max(worst_, std::fabs(all_[t * ldy_of(m) + row] - expected) / (magnitude + 1e-30));
      }
    }
    CHECK(worst_ < 2e-6);  // f32 has 6e-8
  }

  void part(std::uint32_t token_begin, std::uint32_t n_tokens, std::uint32_t panel_begin,
            std::uint32_t panel_end) const {
    check_part(multiply_, m_, batch_.view, all_, tile_, token_begin, n_tokens, panel_begin, panel_end);
  }

 private:
  std::vector<float> product(std::uint32_t token_begin, std::uint32_t n_tokens, std::uint32_t panel_begin,
                             std::uint32_t panel_end) const {
    std::vector<float> y(n_tokens * ldy_of(m_));
    multiply_(m_.view, batch_.view, token_begin, n_tokens, panel_begin, panel_end, y.data(), ldy_of(m_), tile_.get());
    return y;
  }

  GemmFn multiply_;
  const Matrix& m_;
  const WideBatch& batch_;
  GemmTile tile_;
  std::vector<float> all_;
  double worst_ = 0;
};

double relative_rms(const std::vector<float>& x, const std::vector<float>& y) {
  double error = 0, signal = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    error += (static_cast<double>(x[i]) - y[i]) * (static_cast<double>(x[i]) - y[i]);
    signal += static_cast<double>(x[i]) * x[i];
  }
  return std::sqrt(error / signal);
}

}  // namespace

TEST_CASE("wide batches in bf16 of any size and any panels are the contract's") {
  const auto tables = wide_tables();
  for (const Format format : bf16_formats) {
    CAPTURE(quant::info(format).name);
    const Matrix m(format, 75, 700, 11);  // five panels, the last with a tail; six superchunks, the last with a tail
    const WideBatch batch(67, 700, 5);
    for (const Wide& wide : tables) {
      CAPTURE(wide.name);
      REQUIRE((wide.kernels.wide_gemm[static_cast<int>(format)].multiply != nullptr));
      const Checked checked(wide.kernels.wide_gemm[format_index(m)].multiply, m, batch);
      for (const std::uint32_t n : {1u, 2u, 15u, 16u, 17u, 31u, 32u, 33u, 48u, 50u, 67u}) checked.part(67 - n, n, 0, 5);
      checked.part(3, 20, 1, 4);
      checked.part(0, 16, 4, 5);
      checked.part(0, 33, 2, 2);
      checked.part(0, 12, 0, 3);
    }
  }
}

TEST_CASE("wide batches in bf16 of many tokens or rows and of long rows are the contract's") {
  const auto tables = wide_tables();
  for (const Format format : bf16_formats) {
    CAPTURE(quant::info(format).name);
    const Matrix narrow(format, 18, 100, 1), wide_matrix(format, 5, 2100, 2), tall(format, 340, 300, 5);
    const WideBatch many(519, 100, 3), few(19, 2100, 4),
        few_narrow(40, 300, 6);  // more tokens than a tile's totals have room for
    for (const Wide& wide : tables) {
      CAPTURE(wide.name);
      Checked(wide.kernels.wide_gemm[format_index(narrow)].multiply, narrow, many).part(0, 519, 0, 2);
      Checked(wide.kernels.wide_gemm[format_index(wide_matrix)].multiply, wide_matrix, few).part(0, 19, 0, 1);
      Checked(wide.kernels.wide_gemm[format_index(tall)].multiply, tall, few_narrow).part(1, 39, 1, 20);
    }
  }
}

TEST_CASE("wide batches in bf16 of the largest codes, scales and activations do not overflow") {
  const auto tables = wide_tables();
  for (const Format format : bf16_formats) {
    CAPTURE(quant::info(format).name);
    Matrix m(format, 16, 128, 1);
    const WideBatch batch(16, 128, 3, true);
    for (int pattern = 0; pattern < 256; pattern += pattern < 8 || pattern >= 247 ? 1 : 17) {
      CAPTURE(pattern);
      std::fill(m.memory.begin() + static_cast<std::ptrdiff_t>(m.view.layout.panels_offset_bytes), m.memory.end(),
                static_cast<std::byte>(pattern));
      for (const Wide& wide : tables)
        Checked(wide.kernels.wide_gemm[format_index(m)].multiply, m, batch).part(0, 16, 0, 1);
    }
  }
}

TEST_CASE("block scales far apart are kept in wide batches in bf16") {
  const auto tables = wide_tables();
  for (const Format format : bf16_formats) {
    Matrix m(format, 32, 256, 8);
    const std::size_t superchunk_bytes = quant::info(format).superchunk_bytes;
    for (std::size_t at = m.view.layout.panels_offset_bytes; at < m.memory.size(); at += superchunk_bytes) {
      for (std::size_t i = 0; i < 64; ++i) m.memory[at + i] = i % 3 == 0 ? std::byte{255} : std::byte{0};
    }
    const WideBatch batch(16, 256, 9);
    for (const Wide& wide : tables)
      Checked(wide.kernels.wide_gemm[format_index(m)].multiply, m, batch).part(0, 16, 0, 2);
  }
}

TEST_CASE("AMX's activations are rounded to the nearest bf16, ties to even, beside their codes") {
  for (const Wide& wide : wide_tables()) {
    CAPTURE(wide.name);
    const std::uint32_t n = wide.kernels.wide_gemm[static_cast<int>(Format::w8)].min_tokens;
    for (const std::uint32_t k : {32u, 100u, 700u}) {
      const WideBatch batch(n, k, 6);
      const ActivationBuffer buffer(n, k);
      const Activations view = buffer.view(n, k);
      for (std::uint32_t t = 0; t < n; ++t) {
        std::copy_n(ActivationBuffer::x_row(batch.view, t), k, ActivationBuffer::x_row(view, t));
        REQUIRE(wide.kernels.quantize_row(view, t));
      }
      const std::size_t bytes = std::size_t{n} * view.k_padded;
      CHECK(std::memcmp(view.bf16, batch.view.bf16, 2 * bytes) == 0);
      CHECK(std::memcmp(view.q, batch.view.q, bytes) == 0);
    }
  }
}

// Against the weights before they were encoded: what cutting them adds to the format's own error. Gauss.
TEST_CASE("cutting weights to bf16 adds next to nothing to a format's error") {
  constexpr std::uint32_t rows = 8, k = 7168;
  std::mt19937_64 engine(77);
  std::normal_distribution<float> normal;
  for (const Format format : bf16_formats) {
    CAPTURE(std::string(quant::info(format).name));
    std::vector<float> x(std::size_t{rows} * k);
    for (float& v : x) v = normal(engine);
    PackedMatrix m{format, quant::blob_layout(format, rows, k).value(), nullptr};
    std::vector<std::byte> blob(m.layout.bytes);
    quant::encode_tensor(format, m.layout, x, {}, blob);
    m.blob = blob.data();
    const CutWeights cut(m);
    std::vector<float> decoded(x.size()), plain(x.size());
    quant::decode_rows(format, m.layout, blob, 0, rows, plain.data());
    for (std::size_t i = 0; i < x.size(); ++i) decoded[i] = cut.w[i] * m.row_scale()[i / k] * wide_cut_correction;
    const double error = relative_rms(x, decoded), before = relative_rms(x, plain), cost = relative_rms(plain, decoded);
    MESSAGE(std::string(quant::info(format).name), std::string(" "), before, std::string(" → "), error,
            std::string(", by itself "), cost);
    CHECK(cost < 0.0025);  // 2^-8 / √3 of a mantissa of 1, and less of larger ones
    CHECK(error <= std::sqrt(before * before + 0.0025 * 0.0025) * 1.001);
  }
}
