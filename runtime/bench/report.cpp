#include "runtime/bench/report.h"

#include <fmt/format.h>

#include <algorithm>

namespace r1::bench {
namespace {

using nlohmann::ordered_json;

constexpr double giga = 1e9;

ordered_json profile_json(const std::vector<PhaseShare>& profile) {
  ordered_json json = ordered_json::object();
  for (const PhaseShare& phase : profile) json[phase.name] = phase.share;
  return json;
}

// Phases as rows, measurements as columns.
std::string profile_table(const std::vector<ModelBenchResult>& results) {
  std::vector<std::string> names;
  std::string text = fmt::format("\n{:<24}", "share of the time");
  for (const ModelBenchResult& result : results) {
    if (result.profile.empty()) continue;
    text += fmt::format("{:>16}", result.phase == "decode" ? fmt::format("depth {}", result.depth_tokens)
                                                           : fmt::format("prompt {}", result.prompt_tokens));
    for (const PhaseShare& phase : result.profile) {
      if (std::find(names.begin(), names.end(), phase.name) == names.end()) names.push_back(phase.name);
    }
  }
  if (names.empty()) return {};
  text += '\n';
  for (const std::string& name : names) {
    text += fmt::format("{:<24}", name);
    for (const ModelBenchResult& result : results) {
      if (result.profile.empty()) continue;
      const auto found = std::find_if(result.profile.begin(), result.profile.end(),
                                      [&](const PhaseShare& phase) { return phase.name == name; });
      text +=
          found == result.profile.end() ? fmt::format("{:>16}", "") : fmt::format("{:>14.1f} %", 100 * found->share);
    }
    text += '\n';
  }
  return text;
}

}  // namespace

ordered_json to_json(const std::vector<ModelBenchResult>& results, const std::string& isa) {
  ordered_json array = ordered_json::array();
  for (const ModelBenchResult& r : results) {
    ordered_json json = {{"phase", r.phase},
                         {"prompt", r.prompt_tokens},
                         {"depth", r.depth_tokens},
                         {"threads", r.n_threads},
                         {"isa", isa},
                         {"tokens_per_second", r.tokens_per_s.median},
                         {"lowest", r.tokens_per_s.lowest},
                         {"highest", r.tokens_per_s.highest},
                         {"bytes_per_token", r.bytes_per_token},
                         {"gb_per_s", r.bytes_per_s / giga},
                         {"read_gb_per_s", r.read_bytes_per_s / giga},
                         {"fraction", r.fraction},
                         {"multiply_adds_per_second", r.multiply_adds_per_s}};
    if (r.int8_peak_per_s > 0) {
      json["int8_peak_per_second"] = r.int8_peak_per_s;
      json["peak_fraction"] = r.peak_fraction;
    }
    if (!r.profile.empty()) json["profile"] = profile_json(r.profile);
    array.push_back(std::move(json));
  }
  return array;
}

std::string to_table(const std::vector<ModelBenchResult>& results) {
  std::string text =
      fmt::format("{:<8} {:>7} {:>7} {:>7} {:>10} {:>21} {:>10} {:>7} {:>7} {:>6} {:>9} {:>7}\n", "phase", "prompt",
                  "depth", "threads", "tok/s", "spread", "MB/token", "GB/s", "reads", "%", "Gmac/s", "% int8");
  for (const ModelBenchResult& r : results) {
    text += fmt::format(
        "{:<8} {:>7} {:>7} {:>7} {:>10.2f} {:>21} {:>10.2f} {:>7.2f} {:>7.2f} {:>6.1f} {:>9.1f} {:>7}\n", r.phase,
        r.phase == "prefill" ? fmt::format("{}", r.prompt_tokens) : "",
        r.phase == "decode" ? fmt::format("{}", r.depth_tokens) : "", r.n_threads, r.tokens_per_s.median,
        fmt::format("{:.2f} - {:.2f}", r.tokens_per_s.lowest, r.tokens_per_s.highest), r.bytes_per_token / 1e6,
        r.bytes_per_s / giga, r.read_bytes_per_s / giga, 100 * r.fraction, r.multiply_adds_per_s / giga,
        r.peak_fraction > 0 ? fmt::format("{:.1f}", 100 * r.peak_fraction) : "");
  }
  return text + profile_table(results);
}

ordered_json to_json(const std::vector<KernelBenchResult>& results) {
  ordered_json array = ordered_json::array();
  for (const KernelBenchResult& r : results) {
    array.push_back({{"kernel", "gemv"},
                     {"format", quant::info(r.format).name},
                     {"where", r.from_dram ? "dram" : "l2"},
                     {"threads", r.n_threads},
                     {"isa", simd::isa_name(r.isa)},
                     {"tokens", r.n_tokens},
                     {"gb_per_s", r.bytes_per_s.median / giga},
                     {"read_gb_per_s", r.read_bytes_per_s / giga},
                     {"fraction", r.fraction.median},
                     {"fraction_lowest", r.fraction.lowest},
                     {"fraction_highest", r.fraction.highest},
                     {"fraction_lower_quartile", r.fraction.lower_quartile},
                     {"fraction_upper_quartile", r.fraction.upper_quartile},
                     {"highest_gb_per_s", r.bytes_per_s.highest / giga},
                     {"weights_per_second", r.weights_per_s}});
  }
  return array;
}

std::string to_table(const std::vector<KernelBenchResult>& results) {
  std::string text = fmt::format("{:<12} {:<6} {:<5} {:>7} {:>6} {:>7} {:>7} {:>6} {:>15} {:>9}\n", "isa", "format",
                                 "where", "threads", "tokens", "GB/s", "reads", "%", "middle half", "Gw/s");
  for (const KernelBenchResult& r : results) {
    text +=
        fmt::format("{:<12} {:<6} {:<5} {:>7} {:>6} {:>7.2f} {:>7.2f} {:>6.1f} {:>15} {:>9.1f}\n",
                    simd::isa_name(r.isa), quant::info(r.format).name, r.from_dram ? "dram" : "l2", r.n_threads,
                    r.n_tokens, r.bytes_per_s.median / giga, r.read_bytes_per_s / giga, 100 * r.fraction.median,
                    fmt::format("{:.1f} - {:.1f}", 100 * r.fraction.lower_quartile, 100 * r.fraction.upper_quartile),
                    r.weights_per_s / giga);
  }
  return text;
}

ordered_json to_json(const std::vector<AttentionBenchResult>& results) {
  ordered_json array = ordered_json::array();
  for (const AttentionBenchResult& r : results) {
    array.push_back({{"kernel", "mla_decode"},
                     {"format", r.kv_type},
                     {"depth", r.depth_tokens},
                     {"threads", r.n_threads},
                     {"isa", simd::isa_name(r.isa)},
                     {"multiply_adds_per_second", r.speed.multiply_adds_per_s},
                     {"peak_per_second", r.speed.peak_per_s},
                     {"fraction", r.speed.fraction()}});
  }
  return array;
}

std::string to_table(const std::vector<AttentionBenchResult>& results) {
  std::string text = fmt::format("{:<12} {:<5} {:>7} {:>7} {:>9} {:>9} {:>6}\n", "isa", "cache", "depth", "threads",
                                 "Gmac/s", "peak", "%");
  for (const AttentionBenchResult& r : results) {
    text += fmt::format("{:<12} {:<5} {:>7} {:>7} {:>9.1f} {:>9.1f} {:>6.1f}\n", simd::isa_name(r.isa), r.kv_type,
                        r.depth_tokens, r.n_threads, r.speed.multiply_adds_per_s / giga, r.speed.peak_per_s / giga,
                        100 * r.speed.fraction());
  }
  return text;
}

ordered_json to_json(const std::vector<GemmBenchResult>& results) {
  ordered_json array = ordered_json::array();
  for (const GemmBenchResult& r : results) {
    array.push_back({{"kernel", "gemm"},
                     {"format", quant::info(r.format).name},
                     {"tokens", r.n_tokens},
                     {"threads", 1},
                     {"isa", simd::isa_name(r.isa)},
                     {"multiply_adds_per_second", r.multiply_adds_per_s},
                     {"peak", r.peak},
                     {"peak_per_second", r.peak_per_s},
                     {"fraction", r.fraction}});
  }
  return array;
}

// Formats as rows, batches as columns.
std::string to_table(const std::vector<GemmBenchResult>& results) {
  std::string text;
  const GemmBenchResult* last = nullptr;
  for (const GemmBenchResult& r : results) {
    if (last == nullptr || last->isa != r.isa) {
      text += fmt::format("{}{}, % of {:.0f} Gmac/s\n{:<8}", last == nullptr ? "" : "\n\n", simd::isa_name(r.isa),
                          r.peak_per_s / giga, "tokens");
      for (const GemmBenchResult& column : results) {
        if (column.isa == r.isa && column.format == r.format) text += fmt::format("{:>7}", column.n_tokens);
      }
    }
    if (last == nullptr || last->isa != r.isa || last->format != r.format) {
      text += fmt::format("\n{:<8}", quant::info(r.format).name);
    }
    text += fmt::format("{:>7.1f}", 100 * r.fraction);
    last = &r;
  }
  return text + '\n';
}

ordered_json to_json(const std::vector<Peak>& peaks) {
  ordered_json object = ordered_json::object();
  for (const Peak& peak : peaks) object[peak.kind] = peak.per_s;
  return object;
}

std::string to_words(const std::vector<Peak>& peaks) {
  std::string text;
  for (const Peak& peak : peaks)
    text += fmt::format("{}{} {:.1f}", text.empty() ? "" : ", ", peak.kind, peak.per_s / giga);
  return text;
}

ordered_json to_json(const std::vector<OnednnBenchResult>& results) {
  ordered_json array = ordered_json::array();
  for (const OnednnBenchResult& r : results) {
    array.push_back({{"kernel", r.code.empty() ? "tiles" : "onednn"},
                     {"product", r.product},
                     {"by", r.by},
                     {"code", r.code},
                     {"k", r.k},
                     {"rows", r.n_rows},
                     {"tokens", r.n_tokens},
                     {"multiply_adds_per_second", r.multiply_adds_per_s},
                     {"peak", r.peak},
                     {"peak_per_second", r.peak_per_s},
                     {"fraction", r.fraction}});
    if (r.from_packed_per_s == 0) continue;
    array.back()["from_packed_per_second"] = r.from_packed_per_s;
    array.back()["from_packed_fraction"] = r.from_packed_fraction;
  }
  return array;
}

std::string to_table(const std::vector<OnednnBenchResult>& results) {
  std::string text = fmt::format("{:<12} {:>6} {:>5} {:>7} {:<9} {:>8} {:>6} {:<5} {:>12} {:>6}  {}\n", "product", "k",
                                 "rows", "tokens", "by", "Gmac/s", "%", "of", "from packed", "%", "oneDNN's code");
  for (const OnednnBenchResult& r : results) {
    text += fmt::format("{:<12} {:>6} {:>5} {:>7} {:<9} {:>8.1f} {:>6.1f} {:<5} ", r.product, r.k, r.n_rows, r.n_tokens,
                        r.by, r.multiply_adds_per_s / giga, 100 * r.fraction, r.peak);
    text += r.from_packed_per_s > 0
                ? fmt::format("{:>12.1f} {:>6.1f}  ", r.from_packed_per_s / giga, 100 * r.from_packed_fraction)
                : fmt::format("{:>12} {:>6}  ", "-", "-");
    text += r.code + '\n';
  }
  return text;
}

}  // namespace r1::bench
