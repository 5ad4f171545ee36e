// A plan for people and as JSON.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "convert/cli/plan_time.h"
#include "convert/plan.h"
#include "quant/encode.h"

namespace r1::convert {

[[nodiscard]] double gigabytes(std::uint64_t bytes);
[[nodiscard]] std::string duration_text(double seconds);

// The table by class; errors by class, where known.
void print_classes(const ConversionPlan& plan, const std::map<std::string, quant::EncodeError>& errors);
// All that --plan shows.
void print_plan(const rt::ModelConfig& config, const ConversionPlan& plan, const PlanTime& time, int n_threads);
[[nodiscard]] nlohmann::ordered_json plan_json(const ConversionPlan& plan, int n_threads);

}  // namespace r1::convert
