// FP8, f16 and bf16 against arithmetic on their fields, all of them; rounding against all values that lie near a
// border.
#include "quant/fp8.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

using namespace r1::quant;

namespace {

// The value of sign, exponent and mantissa fields with IEEE subnormals, in double; the top exponent is no special case.
double field_value(std::uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits >> mantissa_bits & ((1u << exponent_bits) - 1));
  const int mantissa = static_cast<int>(bits & ((1u << mantissa_bits) - 1)), one = 1 << mantissa_bits;
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                                         : std::ldexp(one + mantissa, exponent - bias - mantissa_bits);
  return bits >> (exponent_bits + mantissa_bits) & 1 ? -magnitude : magnitude;
}

bool same_bits(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

// Rounding to 16 bits around every border between neighbours: below it, on it (to the even one), above it.
template <class Round>
void check_rounding(int exponent_bits, int mantissa_bits, const Round& round) {
  const std::uint32_t infinity = ((1u << exponent_bits) - 1) << mantissa_bits;
  int n_wrong = 0;
  for (std::uint32_t bits = 0; bits < infinity; ++bits) {
    const double low = field_value(bits, exponent_bits, mantissa_bits);
    const double high = field_value(bits + 1, exponent_bits, mantissa_bits);  // the last one's: where infinity begins
    const auto border = static_cast<float>((low + high) / 2);
    for (const std::uint32_t sign : {0u, 0x8000u}) {
      const auto signed_bits = [&](float x) { return round(sign ? -x : x); };
      n_wrong += signed_bits(static_cast<float>(low)) != (sign | bits);
      n_wrong += signed_bits(std::nextafter(border, 0.0f)) != (sign | bits);
      n_wrong += signed_bits(border) != (sign | (bits + (bits & 1)));
      n_wrong += signed_bits(std::nextafter(border, INFINITY)) != (sign | (bits + 1));
    }
  }
  CHECK(n_wrong == 0);
  CHECK(round(INFINITY) == infinity);
  CHECK(round(-INFINITY) == (0x8000u | infinity));
  CHECK((round(NAN) & 0x7fffu) > infinity);
  CHECK((round(std::bit_cast<float>(0x7f800001u)) & 0x7fffu) > infinity);  // its payload lies in the lost bits
}

}  // namespace

TEST_CASE("fp8, f16 and bf16 are read as their fields say") {
  for (std::uint32_t bits = 0; bits < 256; ++bits) {
    CAPTURE(bits);
    const float value = fp8_e4m3_to_f32(static_cast<std::uint8_t>(bits));
    if ((bits & 0x7f) == 0x7f) {
      CHECK(std::isnan(value));
    } else {
      CHECK(same_bits(value, static_cast<float>(field_value(bits, 4, 3))));
    }
  }
  int n_wrong = 0;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto b = static_cast<std::uint16_t>(bits);
    const float half = f16_to_f32(b), brain = bf16_to_f32(b);
    if ((bits & 0x7c00u) == 0x7c00u) {
      n_wrong += (bits & 0x3ff) != 0 ? !std::isnan(half) : !std::isinf(half) || std::signbit(half) != (bits >> 15 != 0);
    } else {
      n_wrong += !same_bits(half, static_cast<float>(field_value(bits, 5, 10)));
    }
    if ((bits & 0x7f80u) == 0x7f80u) {
      n_wrong +=
          (bits & 0x7f) != 0 ? !std::isnan(brain) : !std::isinf(brain) || std::signbit(brain) != (bits >> 15 != 0);
    } else {
      n_wrong += !same_bits(brain, static_cast<float>(field_value(bits, 8, 7)));
    }
  }
  CHECK(n_wrong == 0);
}

TEST_CASE("f16 and bf16 are rounded to the nearest, ties to even") {
  check_rounding(5, 10, [](float x) { return f32_to_f16(x); });
  check_rounding(8, 7, [](float x) { return f32_to_bf16(x); });
}

TEST_CASE("arrays are converted as single values are, over all tails") {
  std::vector<std::uint8_t> bytes(256);
  std::vector<std::uint16_t> words(65536);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i);
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = static_cast<std::uint16_t>(i);
  std::vector<float> out(words.size() + 1);
  const auto same = [](float a, float b) { return same_bits(a, b) || (std::isnan(a) && std::isnan(b)); };
  int n_wrong = 0;
  for (std::size_t n = 0; n <= 40; ++n) {
    const std::size_t first = 37 * n;
    for (const int kind : {0, 1, 2}) {
      out[n] = 12345;
      if (kind == 0) fp8_e4m3_to_f32(bytes.data() + first % 200, 0.3f, n, out.data());
      if (kind == 1) f16_to_f32(words.data() + first, n, out.data());
      if (kind == 2) bf16_to_f32(words.data() + first, n, out.data());
      n_wrong += out[n] != 12345;
      for (std::size_t i = 0; i < n; ++i) {
        const float one = kind == 0   ? fp8_e4m3_to_f32(bytes[first % 200 + i]) * 0.3f
                          : kind == 1 ? f16_to_f32(words[first + i])
                                      : bf16_to_f32(words[first + i]);
        n_wrong += !same(out[i], one);
      }
    }
  }
  fp8_e4m3_to_f32(bytes.data(), 0.7f, bytes.size(), out.data());
  for (std::size_t i = 0; i < bytes.size(); ++i) n_wrong += !same(out[i], fp8_e4m3_to_f32(bytes[i]) * 0.7f);
  f16_to_f32(words.data(), words.size(), out.data());
  for (std::size_t i = 0; i < words.size(); ++i) n_wrong += !same(out[i], f16_to_f32(words[i]));
  CHECK(n_wrong == 0);
}
