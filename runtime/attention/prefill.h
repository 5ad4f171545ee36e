// Attention of many tokens of one sequence. Queries, keys and values are made for one head (GQA: one KV head) at a time
// and multiplied in integers, page by page of the cache (simd/prefill_attention.h); MLA's keys and values are
// decompressed from the latents page by page, for a few heads at a time. So the scratch does not grow with the context,
// and a token gets the same result however the prompt was cut into batches.
//
// Decompressing costs latent · (d_nope + d_v) products per row and head, and each pair of tokens then costs
// d_nope + d_rope + d_v of them instead of 2 · latent + d_rope (R1: 320 instead of 1,088).
#pragma once

#include <cstdint>
#include <vector>

#include "numa/thread_team.h"
#include "runtime/kv_cache/kv_cache.h"
#include "runtime/model/buffer.h"
#include "runtime/model_file/config.h"
#include "simd/kernels.h"

namespace r1::rt {

struct Pass;
struct Mla;

// The batch from which prefill attention is used; below, what decode does.
inline constexpr std::uint32_t prefill_min_tokens = 32;
// Heads that share a page's latents. More would drive the running results out of the caches.
inline constexpr std::uint32_t prefill_group_heads = 4;

// Pages that some queries meet in turn, before the next queries do: running results then come from the second-level
// cache, once for all of these pages.
inline constexpr std::uint32_t prefill_turn_pages = 4;
inline constexpr std::uint32_t prefill_turn_queries = 192;

// Keys and values of one head and page, and their scales [page rows]; of a q8 cache's rope keys the cache has them.
struct PrefillPage {
  Buffer<std::byte> keys, values;
  Buffer<float> key_scale, value_scale, value_scale_max;
};

// What one member needs for it.
struct PrefillScratch {
  PrefillScratch() = default;
  PrefillScratch(const ModelConfig& config, std::uint32_t max_tokens);

  // Of the queries at hand: [heads of a group, tokens]
  Buffer<std::byte> q;           // codes
  Buffer<float> q_scale;         // [2]
  Buffer<std::int32_t> q_start;  // [2]
  Buffer<float> max, sum;
  Buffer<float> out;    // [d_v]
  Buffer<float> q_row;  // [d_qk]

  PrefillPage pages[prefill_turn_pages];
  Buffer<float> rows;  // [page rows, widest]: f32 on the way to codes

  // MLA
  simd::ActivationBuffer latents;  // [pages, page rows, kv_lora_rank]
  Buffer<float> rope_rows;         // [pages, page rows, qk_rope_head_dim]
  std::size_t up_k_bytes = 0;      // of one head
  Buffer<std::byte> up_k;          // [heads of a group] W^UK as [qk_nope_head_dim, kv_lora_rank] matrices
  Buffer<float> up_k_rows;         // [kv_lora_rank, qk_nope_head_dim] of one head
};

// Whether the batch goes this way: many tokens, all of one sequence. A cache of f32 is for those who want every bit:
// its products stay in floats, as in decode.
[[nodiscard]] bool uses_prefill(const Pass& pass);

// scratch.q (as projected) and the cache, which holds the batch's rows already → scratch.heads.
void prefill_mla(const numa::Member& member, Pass& pass, const Mla& w, std::uint32_t layer, std::uint32_t kv_layer);
// scratch.q with biases, norms and rotation applied.
void prefill_gqa(const numa::Member& member, Pass& pass, std::uint32_t kv_layer);

}  // namespace r1::rt
