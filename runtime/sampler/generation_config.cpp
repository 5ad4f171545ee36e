#include "runtime/sampler/generation_config.h"

#include <fmt/format.h>

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>

#include "runtime/base/try.h"

namespace r1::rt {
namespace {

using nlohmann::json;

Error wrong(const std::string& where, std::string message) {
  return Error{ErrorCode::corrupt, std::move(message), where};
}

// The value of `key`, or null if it is absent or null.
const json* find(const json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

Result<void> read_number(const json& object, const char* key, const std::string& where, float* out) {
  const json* value = find(object, key);
  if (value == nullptr) return {};
  if (!value->is_number()) return wrong(where, fmt::format("{} is not a number", key));
  *out = static_cast<float>(value->get<double>());
  return {};
}

Result<Token> token_id(const json& value, const std::string& where) {
  if (!value.is_number_integer()) return wrong(where, "eos_token_id is not a whole number or a list of them");
  const bool in_range = value.is_number_unsigned()
                            ? value.get<std::uint64_t>() <= std::uint64_t{std::numeric_limits<Token>::max()}
                            : value.get<std::int64_t>() >= 0;
  if (!in_range) return wrong(where, fmt::format("eos_token_id {} is no token id", value.dump()));
  return static_cast<Token>(value.get<std::int64_t>());
}

}  // namespace

Result<GenerationConfig> parse_generation_config(std::string_view text, const std::string& where) {
  const json object = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return wrong(where, "not a JSON object");

  GenerationConfig config;
  SamplingOptions& sampling = config.sampling;
  R1_CHECK(read_number(object, "temperature", where, &sampling.temperature));
  R1_CHECK(read_number(object, "top_p", where, &sampling.top_p));
  R1_CHECK(read_number(object, "min_p", where, &sampling.min_p));
  R1_CHECK(read_number(object, "repetition_penalty", where, &sampling.repetition_penalty));
  R1_CHECK(read_number(object, "presence_penalty", where, &sampling.presence_penalty));
  R1_CHECK(read_number(object, "frequency_penalty", where, &sampling.frequency_penalty));
  if (const json* top_k = find(object, "top_k")) {
    if (!top_k->is_number_integer()) return wrong(where, "top_k is not a whole number");
    const auto value = top_k->get<double>();  // exact where it matters, and never wraps around
    if (value < -1 || value > std::numeric_limits<std::int32_t>::max()) {
      return wrong(where, fmt::format("top_k {} is out of range", top_k->dump()));
    }
    sampling.top_k = value < 0 ? 0 : static_cast<std::int32_t>(value);  // -1 is how vLLM's files write "off"
  }
  if (const json* do_sample = find(object, "do_sample")) {
    if (!do_sample->is_boolean()) return wrong(where, "do_sample is not true or false");
    if (!do_sample->get<bool>()) sampling.temperature = 0.0f;
  }
  if (const auto checked = Sampler::create(sampling); !checked) return wrong(where, checked.error().message);

  if (const json* eos = find(object, "eos_token_id")) {
    if (eos->is_array()) {
      for (const json& id : *eos) {
        R1_TRY(const Token token, token_id(id, where));
        config.eos_token_ids.push_back(token);
      }
    } else {
      R1_TRY(const Token token, token_id(*eos, where));
      config.eos_token_ids.push_back(token);
    }
  }
  return config;
}

}  // namespace r1::rt
