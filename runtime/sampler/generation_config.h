// generation_config.json: how its makers want a model sampled, and which tokens end its answers.
#pragma once

#include <r1/result.h>
#include <r1/sampler.h>
#include <r1/types.h>

#include <string>
#include <string_view>
#include <vector>

namespace r1::rt {

struct GenerationConfig {
  SamplingOptions sampling;  // 0.6 / 0.95, the card's, where the file is silent; temperature 0 if do_sample is false
  std::vector<Token> eos_token_ids;
};

// Unknown keys and nulls are passed over; a known key of the wrong type or out of range is an error that names it.
// `where` names the file.
[[nodiscard]] Result<GenerationConfig> parse_generation_config(std::string_view json, const std::string& where);

}  // namespace r1::rt
