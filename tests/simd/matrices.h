// Matrices and batches for tests of matrix kernels.
#pragma once

#include <doctest/doctest.h>

#include <cstring>
#include <random>
#include <vector>

#include "quant/decode.h"
#include "quant/fp8.h"
#include "simd/kernels.h"

// A matrix of random bits: every bit string decodes. Its last byte is the last of its memory, so that a sanitizer sees
// a kernel read past it.
struct Matrix {
  std::vector<std::byte> memory;
  r1::simd::PackedMatrix view;
  std::vector<float> decoded;  // [rows, k]

  Matrix(r1::quant::Format format, std::uint32_t rows, std::uint32_t k, unsigned seed) {
    std::mt19937 engine(seed);
    view.format = format;
    view.layout = r1::quant::blob_layout(format, rows, k).value();
    memory.resize(view.layout.bytes);
    if (r1::quant::info(format).is_packed()) {
      for (auto& byte : memory) byte = static_cast<std::byte>(engine());
      std::vector<float> floats(view.layout.panels_offset_bytes / 4);
      for (float& f : floats) f = 0.01f + static_cast<float>(engine() % 1000) * 1e-3f;
      for (std::uint32_t r = rows; r < view.layout.rows_padded; ++r) floats[16 + r] = 0;
      std::memcpy(memory.data(), floats.data(), view.layout.panels_offset_bytes);
    } else {
      for (std::size_t i = 0; i < std::size_t{rows} * k; ++i) {
        const float value = static_cast<float>(static_cast<int>(engine() % 2001) - 1000) * 1e-3f;
        const std::uint16_t bits = r1::quant::f32_to_bf16(value);
        if (format == r1::quant::Format::f32) std::memcpy(memory.data() + 4 * i, &value, 4);
        if (format == r1::quant::Format::bf16) std::memcpy(memory.data() + 2 * i, &bits, 2);
      }
    }
    view.blob = memory.data();
    decoded.resize(std::size_t{rows} * k);
    r1::quant::decode_rows(format, view.layout, memory, 0, rows, decoded.data());
  }
};

struct Batch {
  r1::simd::ActivationBuffer buffer;
  r1::simd::Activations view;

  Batch(const r1::simd::Kernels& kernels, std::uint32_t n_tokens, std::uint32_t k, unsigned seed, bool extreme = false)
      : buffer(n_tokens, k) {
    view = buffer.view(n_tokens, k);
    std::mt19937 engine(seed);
    for (std::uint32_t t = 0; t < n_tokens; ++t) {
      float* x = r1::simd::ActivationBuffer::x_row(view, t);
      for (std::uint32_t i = 0; i < k; ++i) {
        x[i] = extreme ? (engine() & 1 ? 2.0f : -2.0f)
                       : static_cast<float>(static_cast<int>(engine() % 2001) - 1000) * 2e-3f;
      }
      REQUIRE(kernels.quantize_row(view, t));
    }
  }
};
