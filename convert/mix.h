// A mix: which format each tensor class of one model gets, layer by layer. Every recipe, hand-made, from a file or
// fitted, becomes one.
#pragma once

#include <compare>
#include <map>
#include <optional>
#include <string>

#include "quant/recipe.h"
#include "runtime/model_file/config.h"
#include "runtime/model_file/tensor_specs.h"

namespace r1::convert {

// The matrices of one class in one layer: they share a format.
struct Slot {
  quant::TensorClass tensor_class;
  int layer = -1;  // −1 outside the layers; num_hidden_layers … for MTP layers
  auto operator<=>(const Slot&) const = default;
};
[[nodiscard]] Slot slot_of(const rt::ModelConfig& config, const rt::BlobSpec& blob, const rt::MatrixSpec& matrix);

// nullopt: exact, which is bf16 where the checkpoint has that, else f32.
using FormatChoice = std::optional<quant::Format>;
[[nodiscard]] const char* choice_name(FormatChoice choice);  // "t2", "exact"

struct Mix {
  std::string name, summary;
  std::map<Slot, FormatChoice> formats;  // every slot of the model but the norms, which are always f32

  // The mix must be of this config.
  [[nodiscard]] quant::Format format(const rt::ModelConfig& config, const rt::BlobSpec& blob,
                                     const rt::MatrixSpec& matrix, bool source_is_bf16) const;
  // Two mixes of one model give the same bytes if they have the same: a hand-made recipe's name, or a number.
  [[nodiscard]] std::string fingerprint() const;
};

[[nodiscard]] Mix hand_made_mix(const rt::ModelConfig& config, const quant::Recipe& recipe);

}  // namespace r1::convert
