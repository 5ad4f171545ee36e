// The output directory: what may be in it, and the files beside the shards.
#pragma once

#include <r1/result.h>

#include <nlohmann/json.hpp>
#include <string>

#include "convert/plan.h"

namespace r1::convert {

// Makes the directory. Refuses `source`, the checkpoint's own, and one that holds files r1-quantize did not write.
[[nodiscard]] Result<void> prepare_output_directory(const std::string& source, const std::string& directory);
[[nodiscard]] Result<void> check_free_space(const std::string& directory, std::uint64_t needed_bytes);

// Tokenizer and generation settings, byte for byte, where `source` has them.
[[nodiscard]] Result<void> copy_companions(const std::string& source, const std::string& directory);

// errors.json: each tensor's error as far as it is known, by name. Read back it is empty if absent, damaged, or of
// another conversion.
[[nodiscard]] nlohmann::json read_errors(const std::string& directory, const std::string& fingerprint);
[[nodiscard]] Result<void> write_errors(const nlohmann::json& errors, const std::string& directory,
                                        const std::string& fingerprint);

// recipe.json, the plan's mix; config.json = source_config with our quantization_config, which ends with what `origin`
// says about where the weights come from; then the index, last: a directory without one is not a model yet.
[[nodiscard]] Result<void> write_config_and_index(const nlohmann::ordered_json& source_config,
                                                  const nlohmann::ordered_json& origin, const ConversionPlan& plan,
                                                  const std::string& directory);

}  // namespace r1::convert
