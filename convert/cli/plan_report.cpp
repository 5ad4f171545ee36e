#include "convert/cli/plan_report.h"

#include <fmt/format.h>

#include <cmath>

namespace r1::convert {
namespace {

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

void print_plan(const rt::ModelConfig& config, const ConversionPlan& plan, const PlanTime& time, int n_threads) {
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
      "on disk: {:.3f} GB; a token reads {:.3f} GB; about {} of encoding{} on {} threads like this machine's "
      "(measured just now on random weights)\n",
      gigabytes(plan.file_bytes), gigabytes(plan.read_bytes), duration_text(time.seconds),
      time.n_feedback_inputs > 0 ? " with error feedback" : "", n_threads);
}

nlohmann::ordered_json plan_json(const ConversionPlan& plan, int n_threads) {
  nlohmann::ordered_json json = {{"recipe", plan.mix.name},
                                 {"parameters", plan.parameters},
                                 {"bytes", plan.bytes},
                                 {"bits_per_weight", plan.bits_per_weight()},
                                 {"read_bytes_per_token", plan.read_bytes},
                                 {"mtp_bytes", plan.mtp.bytes},
                                 {"file_bytes", plan.file_bytes},
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
