// Which matrices of a model read the same input vectors. An importance matrix is kept per input, not per matrix.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/model_file/config.h"
#include "runtime/model_file/tensor_specs.h"

namespace r1::rt {

enum class InputRole : std::uint8_t {
  attention,    // what q_a, kv_a, q, k, v read: the normalized hidden state
  q_b,          // behind q_a_layernorm
  k_b,          // per head: the query's part without position
  v_b,          // per head: the latents that the softmax weighed
  o,            // the heads side by side
  mlp,          // what the router, gate and up of a dense MLP or a shared expert read
  down,         // silu(gate) · up of those
  expert_mlp,   // per expert: the rows of `mlp` that the router sent to it
  expert_down,  // per expert
  eh_proj,      // of an MTP layer
  head,         // the final norm's output
};

// One input vector, or one per expert or head.
struct MatrixInput {
  std::string name;  // "model.layers.3.mlp.experts.down_proj.input"
  InputRole role = InputRole::attention;
  int layer = -1;       // −1: the head
  std::uint32_t n = 1;  // experts or heads
  std::uint32_t k = 0;  // values of a vector
};

// All inputs of a model, in order of layers; MTP layers follow the last one, the head comes last.
[[nodiscard]] std::vector<MatrixInput> matrix_inputs(const ModelConfig& config);

// The role of the input that a matrix multiplies; none for norms, biases and an embedding that is not the head too.
[[nodiscard]] std::optional<InputRole> input_role(const ModelConfig& config, const BlobSpec& blob,
                                                  const MatrixSpec& matrix);

// Whether an input's second moments are collected where that is asked for: those of whole layers, not those of each
// expert or head, and neither the head's.
[[nodiscard]] bool may_have_moments(InputRole role);

// The role of the input whose second moments are those of what `role` reads: a router sends its experts what it reads
// itself.
[[nodiscard]] InputRole moments_role(InputRole role);

}  // namespace r1::rt
