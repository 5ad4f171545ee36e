// Random weights, drawn in the packed formats themselves: every bit string of a T format is valid, so nothing is
// encoded.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quant/format.h"
#include "runtime/model_file/config.h"
#include "runtime/model_file/tensor_specs.h"

namespace r1::convert {

enum class SynthRouter : std::uint8_t {
  uniform,  // over random tokens, every expert is chosen about equally often
  zipf,     // popularity falls with an expert's rank as rank^−0.8
};

// What a tensor of a synthetic model is drawn from. Everything is a function of the seed and of names: neither threads
// nor order matter.
struct RandomTensor {
  quant::Format format = quant::Format::f32;
  quant::BlobLayout layout;
  float rms = 0;           // of its weights
  std::uint64_t seed = 0;  // of this part of this blob
};

// The root mean square that keeps activations at unit size through any number of layers, for a matrix of a blob.
[[nodiscard]] float synthetic_rms(const rt::ModelConfig& config, const rt::BlobSpec& blob,
                                  const rt::MatrixSpec& matrix);

// Of packed formats, 0 in S8 ones: what the blob starts with.
[[nodiscard]] std::array<float, 16> random_s4_table(quant::Format format);

// Panel `panel`:
//   panel_out   layout.panel_bytes (packed formats), or n_rows · k · element size (bf16, f32)
//   row_scale   [16], packed formats only
void draw_panel(const RandomTensor& tensor, std::uint32_t panel, std::span<std::byte> panel_out, float* row_scale);

// A vector blob (TensorClass::norm): ones for norms, small numbers for biases, and for e_score_correction_bias what
// makes the router choose as `router` says.
[[nodiscard]] std::vector<float> draw_vector(const rt::ModelConfig& config, const rt::BlobSpec& blob,
                                             SynthRouter router, std::uint64_t seed);

}  // namespace r1::convert
