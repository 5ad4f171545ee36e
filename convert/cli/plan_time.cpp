#include "convert/cli/plan_time.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "convert/feedback_input.h"
#include "quant/encode.h"
#include "quant/feedback.h"

namespace r1::convert {
namespace {

class Stopwatch {
 public:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Wider inputs are counted from one of this width: factoring takes its cube, feeding forward its square.
constexpr std::uint32_t measured_k = 4096;

// Of an input of k columns whose neighbours are correlated.
std::optional<quant::Feedback> made_feedback(std::uint32_t k) {
  constexpr std::uint32_t reach = 40;
  std::vector<float> moments(quant::triangle_values(k));
  for (std::uint32_t i = 0; i < k; ++i) {
    for (std::uint32_t j = i - std::min(i, reach); j <= i; ++j)
      moments[quant::triangle_values(i) + j] = std::exp2(-static_cast<float>(i - j));
  }
  return quant::Feedback::of(k, moments, [](std::size_t n, const std::function<void(std::size_t)>& fn) {
    for (std::size_t i = 0; i < n; ++i) fn(i);
  });
}

// Seconds per weight that one core takes to encode a format.
double encode_seconds_per_weight(quant::Format format, quant::Effort effort, const quant::Feedback* feedback) {
  const std::uint32_t k = feedback != nullptr ? feedback->k() : 2048;
  const std::uint32_t rows = feedback != nullptr ? quant::feedback_rows : quant::panel_rows;
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(std::size_t{rows} * k);
  for (float& v : x) v = normal(engine);
  const auto layout = quant::blob_layout(format, rows, k).value();
  std::vector<std::byte> panels(layout.n_panels * layout.panel_bytes);
  std::vector<float> row_scales(rows);
  const auto encoding =
      quant::prepare_encoding(format, layout, x, quant::max_sample_rows, {}, quant::model_encoding(effort), feedback);
  double seconds = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 3; ++i) {  // the best: others may use the core
    const Stopwatch watch;
    quant::encode_panels(encoding, 0, layout.n_panels, x.data(), {}, panels.data(), row_scales.data());
    seconds = std::min(seconds, watch.seconds());
  }
  return seconds / static_cast<double>(x.size());
}

}  // namespace

PlanTime estimated_time(const ConversionPlan& plan, const rt::Importance* importance, int n_threads) {
  // By columns of the input that has moments; 0: none.
  std::map<std::uint32_t, std::map<quant::Format, double>> weights;
  std::set<std::pair<const ShardPlan*, const rt::ImatrixInput*>> inputs;  // each shard factors its own
  for (const auto& shard : plan.shards) {
    for (const auto& blob : shard.blobs) {
      for (std::size_t p = 0; p < blob.stored.parts.size(); ++p) {
        const auto& part = blob.stored.parts[p];
        const auto& matrix = blob.spec.matrices[blob.spec.rule == rt::PartRule::experts ? p : 0];
        const rt::ImatrixInput* const input = feedback_input(importance, blob.spec, matrix, part.format);
        if (input != nullptr) inputs.emplace(&shard, input);
        weights[input != nullptr ? input->k : 0][part.format] += static_cast<double>(part.layout.rows) * part.layout.k;
      }
    }
  }
  double seconds = 0;
  for (const auto& [k, formats] : weights) {
    std::optional<quant::Feedback> feedback;
    const double times_as_wide = std::max(1.0, static_cast<double>(k) / measured_k);
    if (k > 0) {
      const Stopwatch watch;
      feedback = made_feedback(std::min(k, measured_k));
      const auto has_k = [k = k](const auto& input) { return input.second->k == k; };
      seconds += watch.seconds() * std::pow(times_as_wide, 3) *
                 static_cast<double>(std::count_if(inputs.begin(), inputs.end(), has_k));
    }
    for (const auto& [format, n] : formats) {
      double per_weight = encode_seconds_per_weight(format, plan.effort, feedback ? &*feedback : nullptr);
      if (times_as_wide > 1) {
        const double alone = encode_seconds_per_weight(format, plan.effort, nullptr);
        per_weight += std::max(0.0, per_weight - alone) * (times_as_wide - 1);
      }
      seconds += n * per_weight;
    }
  }
  return {seconds / n_threads, inputs.size()};
}

}  // namespace r1::convert
