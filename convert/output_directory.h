// The output directory: what may be in it, and the files beside the shards.
#pragma once

#include <r1/result.h>

#include <string>

#include "convert/checkpoint.h"
#include "convert/plan.h"

namespace r1::convert {

// Makes the directory. Refuses the checkpoint's own, and one that holds files r1-quantize did not write.
[[nodiscard]] Result<void> prepare_output_directory(const std::string& source, const std::string& directory);
[[nodiscard]] Result<void> check_free_space(const std::string& directory, std::uint64_t needed_bytes);

// Tokenizer and generation settings byte for byte, config.json with our quantization_config, the index last: a
// directory without an index is not a model yet.
[[nodiscard]] Result<void> write_model_metadata(const Checkpoint& checkpoint, const ConversionPlan& plan,
                                                const std::string& directory);

}  // namespace r1::convert
