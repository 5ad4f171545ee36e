// The mix that fits a size: formats by class and layer that minimise the predicted KL divergence.
#pragma once

#include <r1/result.h>

#include <cstdint>
#include <string>
#include <vector>

#include "convert/mix.h"
#include "convert/plan.h"
#include "runtime/model_file/sensitivity.h"

namespace r1::convert {

struct FitOptions {
  std::uint64_t size_bytes = 0;  // of all shards
  std::string size_name;         // as the user wrote it: names the mix
  // What a byte costs: 1 / the model's bytes, and this times 1 / the bytes that a token reads for each byte read.
  double speed_weight = 0;
};

// What was chosen for the matrices of one class in neighbouring layers.
struct FittedItem {
  quant::TensorClass tensor_class = quant::TensorClass::norm;
  int first_layer = -1, last_layer = -1;
  quant::Format format = quant::Format::f32;
  std::uint64_t bytes = 0, read_bytes = 0;
  double kld = 0;  // predicted, above the floor
};

struct Fit {
  Mix mix;
  std::vector<FittedItem> items;  // in order of the sensitivities
  double floor = 0;               // of roundings, in kld
  double kld = 0;                 // predicted: the sum over the items, and the floor once
};

// Divergence of an item at a format above its floor, from what was measured of it: interpolated in the squared error of
// the weights on logarithmic axes, proportional to it outside what was measured.
[[nodiscard]] double predicted_kld(const rt::SensitivityItem& item, quant::Format format);

// What roundings alone make a changed model diverge, wherever it was changed: the largest floor.
[[nodiscard]] double floor_of(const rt::Sensitivity& sensitivity);

// Of any mix, by the same prediction: what its items add up to, and the floor once. Items whose layers do not share a
// format count by the share of their layers.
[[nodiscard]] double predicted_kld(const rt::Sensitivity& sensitivity, const Mix& mix);

// The sensitivities of a model that was not measured: every product of a layer suffers alike from the same error of
// its weights, so that a class read rarely, as routed experts are, is no more sensitive than a small one.
[[nodiscard]] rt::Sensitivity assumed_sensitivity(const rt::ModelConfig& config);

// Minimises the sum of predicted divergences by steps up each item's convex hull of price and divergence, the steepest
// first, as far as the size allows. Embedding and head get no less than in the smallest hand-made recipe; router, norms
// and MTP layers what r2.7 gives them. `where` names the sensitivities in errors.
[[nodiscard]] Result<Fit> fit_mix(const rt::ModelConfig& config, const IsBf16& is_bf16,
                                  const rt::Sensitivity& sensitivity, const FitOptions& options,
                                  const std::string& where);

}  // namespace r1::convert
