// What a token costs: bytes to be read and multiply-adds to be done, from a model's shapes.
#pragma once

#include <r1/model.h>
#include <r1/session.h>

#include <cstdint>

namespace r1::bench {

// Of one decoded token behind `depth` others.
[[nodiscard]] double decode_bytes(const Model& model, KvCacheType kv_type, double depth_tokens);
[[nodiscard]] double decode_multiply_adds(const Model& model, double depth_tokens);
// Of a whole prompt of n_tokens at depth 0, in batches.
[[nodiscard]] double prefill_bytes(const Model& model, std::uint32_t n_tokens, std::uint32_t batch_tokens);
[[nodiscard]] double prefill_multiply_adds(const Model& model, std::uint32_t n_tokens);

}  // namespace r1::bench
