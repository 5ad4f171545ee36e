// How much a model's predictions suffer when one part of it is lowered: what r1-quantize sensitivity measures and --fit
// reads. FORMAT.md, "Sensitivities", describes the file.
#pragma once

#include <r1/result.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "quant/format.h"
#include "quant/recipe.h"
#include "runtime/model_file/config.h"

namespace r1::rt {

// One part at one format.
struct Lowered {
  quant::Format format = quant::Format::f32;
  double error = 0;               // sqrt(Σ w (x − decoded)² / Σ w x²) of the part's weights, w their importance
  double kld = 0, kld_error = 0;  // mean of KL(model ‖ model with the part lowered), nats; its standard error
};

// The matrices of one class in layers first … last.
struct SensitivityItem {
  quant::TensorClass tensor_class = quant::TensorClass::norm;
  int first_layer = -1, last_layer = -1;  // −1: outside the layers
  // Of every kld below, what any change at all to these layers costs, however small: behind it, values that are rounded
  // to eight bits fall to other sides. A model pays it once, however many items are lowered. nullopt: not measured.
  std::optional<double> floor;
  std::vector<Lowered> measured;
};

struct Sensitivity {
  std::string identity, description;  // of the model, as an imatrix's
  std::string work;                   // of which weights, text, formats and importance
  std::uint64_t n_tokens = 0, n_scored_tokens = 0;
  std::vector<SensitivityItem> items;

  [[nodiscard]] static Result<Sensitivity> load(const std::string& path);
  [[nodiscard]] Result<void> save(const std::string& path) const;
};

// What is measured of a model: every class of every layer, in groups of layers_per_group neighbouring layers that have
// it; norms, routers and MTP layers left out. Nothing is measured yet.
[[nodiscard]] std::vector<SensitivityItem> sensitivity_items(const ModelConfig& config, int layers_per_group);

}  // namespace r1::rt
