// FP8 e4m3 (the "fn" variant of the checkpoint: no infinities, 0x7f and 0xff are NaN), bf16 and f16 conversions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace r1::quant {

[[nodiscard]] float fp8_e4m3_to_f32(std::uint8_t bits);
[[nodiscard]] float bf16_to_f32(std::uint16_t bits);
[[nodiscard]] std::uint16_t f32_to_bf16(float x);  // round to nearest even
[[nodiscard]] float f16_to_f32(std::uint16_t bits);
[[nodiscard]] std::uint16_t f32_to_f16(float x);  // round to nearest even

// Arrays of n.
void fp8_e4m3_to_f32(const std::uint8_t* in, float scale, std::size_t n, float* out);  // out = in × scale, in f32
void bf16_to_f32(const std::uint16_t* in, std::size_t n, float* out);
void f16_to_f32(const std::uint16_t* in, std::size_t n, float* out);

}  // namespace r1::quant
