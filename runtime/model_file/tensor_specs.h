// The tensors a model directory must hold, from its config alone. The converter writes them, the reader checks them,
// --plan prints them: one list for all three.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quant/recipe.h"
#include "runtime/model_file/config.h"

namespace r1::rt {

// One matrix (or vector: rows = 1) inside a blob.
struct MatrixSpec {
  std::string source;  // the checkpoint's tensor: "model.layers.3.mlp.experts.7.gate_proj.weight"
  quant::TensorClass tensor_class;
  std::uint32_t rows = 0, k = 0;  // logical, of one part
};

// How a blob's parts are taken from the source.
enum class PartRule : std::uint8_t {
  whole,    // one part: the source as it is
  experts,  // three parts gate, up, down of three sources
  k_b,      // num_attention_heads parts [kv_lora_rank, qk_nope_head_dim]: the transposed K rows of kv_b_proj, per head
  v_b,      // num_attention_heads parts [v_head_dim, kv_lora_rank]: its V rows
};

// One blob = one tensor of the model directory.
struct BlobSpec {
  // In the directory: the checkpoint's name, "model.layers.3.mlp.experts.7", "….self_attn.k_b_proj.weight".
  std::string name;
  PartRule rule = PartRule::whole;
  int layer = -1;  // −1 outside the layers; num_hidden_layers … for MTP layers
  int expert = -1;
  std::vector<MatrixSpec> matrices;  // 1; 3 for experts
  std::uint32_t n_parts = 1;         // of matrices[0]'s shape, for k_b and v_b
};

// In file order: common tensors in order of layers, then experts layer by layer. embed_tokens and shared_head.head of
// MTP layers are not listed: they are copies of the model's own, which the converter checks where the checkpoint has
// them. Tied models list no lm_head.
[[nodiscard]] std::vector<BlobSpec> expected_blobs(const ModelConfig& config);

// The class that recipes know a matrix by: a tied embedding is the head as well, and gets the head's format.
[[nodiscard]] quant::TensorClass recipe_class(const ModelConfig& config, const MatrixSpec& matrix);

// The recipe's format for a matrix of this model. source_is_bf16 matters to `exact` alone.
[[nodiscard]] quant::Format matrix_format(const ModelConfig& config, const quant::Recipe& recipe, const BlobSpec& blob,
                                          const MatrixSpec& matrix, bool source_is_bf16);

}  // namespace r1::rt
