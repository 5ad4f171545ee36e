#include "convert/cli/plan_report.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <random>
#include <vector>

namespace r1::convert {
namespace {

// Seconds per weight that one core takes to encode a format here and now, on random weights.
double encode_seconds_per_weight(quant::Format format, quant::Effort effort) {
  constexpr std::uint32_t rows = 16, k = 2048;
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(std::size_t{rows} * k);
  for (float& v : x) v = normal(engine);
  const auto layout = quant::blob_layout(format, rows, k).value();
  std::vector<std::byte> panel(layout.panel_bytes);
  float row_scale[quant::panel_rows];
  const auto encoding =
      quant::prepare_encoding(format, layout, x, quant::max_sample_rows, {}, quant::model_encoding(effort));
  const auto start = std::chrono::steady_clock::now();
  quant::encode_panel(encoding, 0, x.data(), {}, panel.data(), row_scale);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() /
         static_cast<double>(x.size());
}

void print_class(const ClassSummary& c, const std::string& error) {
  fmt::print("{:<18} {:>8} {:>12.3f} {:>10.3f} {:>9.3f} {:>9}  {}\n", c.name, c.n_matrices,
             static_cast<double>(c.parameters) / 1e9, gigabytes(c.bytes), gigabytes(c.read_bytes), error, c.formats);
}

}  // namespace

double gigabytes(std::uint64_t bytes) {
  return static_cast<double>(bytes) / 1e9;
}

std::string duration_text(double seconds) {
  if (seconds < 90) return fmt::format("{:.0f} s", seconds);
  if (seconds < 5400) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

double estimated_seconds(const ConversionPlan& plan, int n_threads) {
  std::map<quant::Format, double> weights;
  for (const auto& shard : plan.shards) {
    for (const auto& blob : shard.blobs) {
      for (const auto& part : blob.stored.parts)
        weights[part.format] += static_cast<double>(part.layout.rows) * part.layout.k;
    }
  }
  double seconds = 0;
  for (const auto& [format, n] : weights) seconds += n * encode_seconds_per_weight(format, plan.effort);
  return seconds / n_threads;
}

void print_classes(const ConversionPlan& plan, const std::map<std::string, quant::EncodeError>& errors) {
  fmt::print("{:<18} {:>8} {:>12} {:>10} {:>9} {:>9}  {}\n", "tensors", "count", "10^9 weights", "GB", "read GB",
             errors.empty() ? "" : "error", "formats");
  for (const auto& c : plan.classes) {
    const auto found = errors.find(c.name);
    const bool known = found != errors.end() && found->second.signal > 0;
    print_class(c, known ? fmt::format("{:.4f}", std::sqrt(found->second.error / found->second.signal)) : "");
  }
  if (plan.mtp.n_matrices > 0) print_class(plan.mtp, "");
  fmt::print("{:<18} {:>8} {:>12.3f} {:>10.3f} {:>9.3f} {:>9}  {:.2f} bits per weight{}\n", "total", "",
             static_cast<double>(plan.parameters) / 1e9, gigabytes(plan.bytes), gigabytes(plan.read_bytes), "",
             plan.bits_per_weight(), plan.mtp.n_matrices > 0 ? ", without the MTP layer" : "");
}

void print_plan(const rt::ModelConfig& config, const ConversionPlan& plan, double seconds, int n_threads) {
  fmt::print("{} as {}{}\n\n", rt::architecture_name(config.architecture), plan.mix.name,
             plan.mix.summary.empty() ? "" : fmt::format(" ({})", plan.mix.summary));
  print_classes(plan, {});
  fmt::print("\nfiles:\n");
  for (std::size_t i = 0; i < plan.shards.size(); ++i) {
    std::size_t last = i;  // runs of equal experts' files in one line
    while (last + 1 < plan.shards.size() && i > 0 && plan.shards[last + 1].file_bytes == plan.shards[i].file_bytes)
      ++last;
    fmt::print("  {}{}: {:.3f} GB{}\n", plan.shards[i].name, last > i ? " … " + plan.shards[last].name : "",
               gigabytes(plan.shards[i].file_bytes), last > i ? " each" : "");
    i = last;
  }
  fmt::print(
      "on disk: {:.3f} GB; a token reads {:.3f} GB; about {} of encoding on {} threads like this machine's (measured "
      "just now on random weights)\n",
      gigabytes(plan.file_bytes), gigabytes(plan.read_bytes), duration_text(seconds), n_threads);
}

nlohmann::ordered_json plan_json(const ConversionPlan& plan, double seconds, int n_threads) {
  nlohmann::ordered_json json = {{"recipe", plan.mix.name},
                                 {"parameters", plan.parameters},
                                 {"bytes", plan.bytes},
                                 {"bits_per_weight", plan.bits_per_weight()},
                                 {"read_bytes_per_token", plan.read_bytes},
                                 {"mtp_bytes", plan.mtp.bytes},
                                 {"file_bytes", plan.file_bytes},
                                 {"estimated_seconds", seconds},
                                 {"threads", n_threads}};
  for (const auto& c : plan.classes) {
    json["classes"].push_back({{"name", c.name},
                               {"formats", c.formats},
                               {"count", c.n_matrices},
                               {"parameters", c.parameters},
                               {"bytes", c.bytes},
                               {"read_bytes_per_token", c.read_bytes}});
  }
  for (const auto& shard : plan.shards) json["files"].push_back({{"name", shard.name}, {"bytes", shard.file_bytes}});
  return json;
}

}  // namespace r1::convert
