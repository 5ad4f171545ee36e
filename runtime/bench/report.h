// What was measured, as a table for people and as JSON for programs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/bench/attention_bench.h"
#include "runtime/bench/gemm_bench.h"
#include "runtime/bench/kernel_bench.h"
#include "runtime/bench/model_bench.h"
#include "runtime/bench/onednn_bench.h"
#include "runtime/bench/peak_bench.h"

namespace r1::bench {

// {"phase", "prompt", "depth", "threads", "isa", "tokens_per_second", "bytes_per_token", "gb_per_s", "read_gb_per_s",
// "fraction"} and more of each; GB = 10^9 bytes.
[[nodiscard]] nlohmann::ordered_json to_json(const std::vector<ModelBenchResult>& results, const std::string& isa);
[[nodiscard]] std::string to_table(const std::vector<ModelBenchResult>& results);

// {"kernel", "format", "where": "dram"|"l2", "threads", "isa", "gb_per_s", "read_gb_per_s", "fraction", …}
[[nodiscard]] nlohmann::ordered_json to_json(const std::vector<KernelBenchResult>& results);
[[nodiscard]] std::string to_table(const std::vector<KernelBenchResult>& results);

// {"kernel": "mla_decode", "format": the cache's, "depth", "threads", "isa", "multiply_adds_per_second",
// "peak_per_second", "fraction"}
[[nodiscard]] nlohmann::ordered_json to_json(const std::vector<AttentionBenchResult>& results);
[[nodiscard]] std::string to_table(const std::vector<AttentionBenchResult>& results);

// {"kernel": "gemm", "format", "tokens", "isa", "multiply_adds_per_second", "peak": "amx"|"vnni"|"int8",
// "peak_per_second", "fraction"}
[[nodiscard]] nlohmann::ordered_json to_json(const std::vector<GemmBenchResult>& results);
[[nodiscard]] std::string to_table(const std::vector<GemmBenchResult>& results);

// {"fma": multiply-adds a second, "bf16", "vnni"|"int8", "amx"}
[[nodiscard]] nlohmann::ordered_json to_json(const std::vector<Peak>& peaks);
[[nodiscard]] std::string to_words(const std::vector<Peak>& peaks);  // in Gmac/s

// {"kernel": "tiles"|"onednn", "product", "by", "code", "k", "rows", "tokens", "multiply_adds_per_second", "peak",
// "peak_per_second", "fraction"}; with weights also {"from_packed_per_second", "from_packed_fraction"}
[[nodiscard]] nlohmann::ordered_json to_json(const std::vector<OnednnBenchResult>& results);
[[nodiscard]] std::string to_table(const std::vector<OnednnBenchResult>& results);

}  // namespace r1::bench
