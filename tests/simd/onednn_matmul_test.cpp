// oneDNN's products in the types that packed weights can be turned into, and the turning.
#include "simd/onednn_matmul.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "matrices.h"
#include "quant/fp8.h"
#include "simd/kernels.h"

using namespace r1;
using namespace r1::simd;
using quant::Format;

namespace {

std::uint16_t bf16_at(const std::byte* p, std::size_t i) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, p + 2 * i, 2);
  return bits;
}

// Where weight (row, k) of one call's 64-row groups lies, in elements.
std::size_t place(std::uint32_t row, std::uint32_t k, std::uint32_t k_all, std::uint32_t group) {
  return std::size_t{row / 64} * 64 * k_all + std::size_t{k / group} * 64 * group + std::size_t{row % 64} * group +
         k % group;
}

// Which k the format's activations have at a position.
std::uint32_t k_at(Format format, std::uint32_t position) {
  const std::uint32_t steps = format == Format::t2 ? 4 : format == Format::t4 || format == Format::t4h ? 2 : 1;
  const std::uint32_t run = 8 * steps, in_run = position % run;
  return position - in_run + (in_run % 8) * steps + in_run / 8;
}

}  // namespace

TEST_CASE("oneDNN multiplies bytes and bf16 as plain code does") {
  constexpr std::uint32_t n_tokens = 33, n_rows = 128, k = 192;
  std::mt19937 engine(1);
  for (const OnednnType type : {OnednnType::u8s8, OnednnType::s8s8, OnednnType::bf16}) {
    CAPTURE(onednn_type_name(type));
    const auto matmul = OnednnMatmul::create(type, n_tokens, n_rows, k);
    if (matmul == nullptr) {
      MESSAGE("no code for this machine");
      continue;
    }
    CHECK_FALSE(matmul->implementation().empty());
    const bool bf16 = type == OnednnType::bf16;
    std::vector<int> w(std::size_t{n_rows} * k), x(std::size_t{n_tokens} * k);
    for (int& value : w) value = static_cast<int>(engine() % 127) - 63;
    for (int& value : x) value = static_cast<int>(engine() % 127) - (type == OnednnType::u8s8 ? 0 : 63);
    std::vector<std::byte> codes(x.size() * (bf16 ? 2 : 1));
    const auto put = [&](std::byte* p, std::size_t i, int value) {
      if (!bf16) {
        p[i] = static_cast<std::byte>(value);
        return;
      }
      const std::uint16_t bits = quant::f32_to_bf16(static_cast<float>(value));
      std::memcpy(p + 2 * i, &bits, 2);
    };
    for (std::size_t i = 0; i < x.size(); ++i) put(codes.data(), i, x[i]);
    for (std::uint32_t row = 0; row < n_rows; ++row) {
      for (std::uint32_t i = 0; i < k; ++i)
        put(matmul->weights(), place(row, i, k, bf16 ? 2 : 4), w[std::size_t{row} * k + i]);
    }
    matmul->take_weights();
    std::vector<float> y(std::size_t{n_tokens} * n_rows);
    matmul->multiply(codes.data(), y.data());
    for (std::uint32_t t = 0; t < n_tokens; ++t) {
      for (std::uint32_t row = 0; row < n_rows; ++row) {
        int sum = 0;
        for (std::uint32_t i = 0; i < k; ++i) sum += x[t * k + i] * w[std::size_t{row} * k + i];
        // Integers below 2^24: exact in either type.
        REQUIRE(y[t * n_rows + row] == static_cast<float>(sum) * (bf16 ? 1.0f : 1.0f / 1024));
      }
    }
  }
}

TEST_CASE("packed weights turned for oneDNN are the decoder's") {
  const Kernels* kernels = kernels_for(Isa::avx512_vnni);
  if (kernels == nullptr) {
    MESSAGE("this machine has no AVX-512 VNNI: nothing to test here");
    return;
  }
  constexpr std::uint32_t k = 256;
  for (const Format format : quant::all_formats) {
    const auto unpack_s8 = kernels->unpack_s8[static_cast<int>(format)];
    const auto unpack_bf16 = kernels->unpack_bf16[static_cast<int>(format)];
    CAPTURE(quant::info(format).name);
    CHECK((unpack_s8 != nullptr) == quant::info(format).is_packed());
    if (unpack_s8 == nullptr) continue;
    const Matrix m(format, 80, k, 3);
    std::vector<std::byte> bytes(std::size_t{64} * k), halves(2 * bytes.size());
    unpack_s8(m.view, 1, bytes.data());
    if (unpack_bf16 != nullptr) unpack_bf16(m.view, 1, halves.data());
    for (std::uint32_t row = 0; row < 64; ++row) {
      // Of a row's codes times one scale per 32 k, the ratio of value and code is that scale.
      for (std::uint32_t position = 0; position < k; ++position) {
        const float value = m.decoded[std::size_t{row + 16} * k + k_at(format, position)];
        const int code = static_cast<std::int8_t>(bytes[place(row, position, k, 4)]);
        REQUIRE((code == 0) == (value == 0));
        const std::uint32_t block = position / 32 * 32;
        int greatest = 0;
        float greatest_value = 0;
        for (std::uint32_t i = block; i < block + 32; ++i) {
          const int other = static_cast<std::int8_t>(bytes[place(row, i, k, 4)]);
          if (std::abs(other) <= std::abs(greatest)) continue;
          greatest = other;
          greatest_value = m.decoded[std::size_t{row + 16} * k + k_at(format, i)];
        }
        if (greatest != 0)
          REQUIRE(
              value ==
              doctest::Approx(static_cast<float>(code) * greatest_value / static_cast<float>(greatest)).epsilon(1e-5));
        if (unpack_bf16 == nullptr) continue;
        const float half = quant::bf16_to_f32(bf16_at(halves.data(), place(row, position, k, 2)));
        REQUIRE(std::fabs(half - value) <= std::fabs(value) * (1.0f / 256));
      }
    }
  }
}
