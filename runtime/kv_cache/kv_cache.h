// The KV cache of one sequence. It grows by pages of 256 tokens, so that a short chat never pays for 163,840; a page
// holds all layers. MLA keeps one row per token and layer: latent (kv_lora_rank) | rope key (qk_rope_head_dim), of
// which the latent is the value too. Grouped-query attention keeps K and V rows per KV head.
#pragma once

#include <r1/result.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/model/buffer.h"
#include "runtime/model_file/config.h"
#include "simd/kernels.h"

namespace r1::rt {

// Rows of a page. It is also the length of an attention split (flash.h): a split never crosses pages, and where splits
// begin depends on the position alone.
inline constexpr std::uint32_t kv_page_tokens = 256;

struct KvShape {
  simd::KvType type = simd::KvType::f16;
  std::uint32_t n_layers = 0;
  std::uint32_t n_kv_heads = 1;
  std::uint32_t k_width = 0;       // elements of a K row
  std::uint32_t v_width = 0;       // elements of a V row; 0: values are the first elements of the K row (MLA)
  std::uint32_t k_rope_width = 0;  // the last elements of a K row, which q8 gives a scale of their own (MLA)

  [[nodiscard]] std::size_t k_row_bytes() const;  // of one layer and head
  [[nodiscard]] std::size_t v_row_bytes() const;
  [[nodiscard]] std::size_t bytes_per_token() const;
  // Of a q8 cache
  [[nodiscard]] simd::Q8KeyShape q8_keys() const;
  [[nodiscard]] simd::Q8ValueShape q8_values() const;
};
[[nodiscard]] KvShape kv_shape(const ModelConfig& config, simd::KvType type, bool with_mtp_layers);

// How many tokens of context a session may have: `wanted`, or with 0 the model's maximum as far as the memory reaches.
// The error says what is needed and what there is.
[[nodiscard]] Result<std::uint32_t> plan_context(const KvShape& shape, std::uint32_t wanted,
                                                 std::uint32_t model_maximum, std::uint64_t memory_available_bytes);

class KvCache {
 public:
  KvCache(const KvShape& shape, std::uint32_t max_tokens);

  [[nodiscard]] const KvShape& shape() const { return shape_; }
  [[nodiscard]] std::uint32_t max_tokens() const { return max_tokens_; }
  [[nodiscard]] std::uint32_t n_pages() const { return static_cast<std::uint32_t>(pages_.size()); }

  // Makes rows 0 … n_tokens − 1 exist. Allocates only where a new page begins.
  Result<void> grow(std::uint32_t n_tokens);
  // Gives the pages behind the first n_tokens back.
  void shrink(std::uint32_t n_tokens);
  // The first n_tokens of this cache, as a cache of its own.
  [[nodiscard]] Result<KvCache> copy(std::uint32_t n_tokens) const;

  // A page's rows of one layer and head: [kv_page_tokens, k_width] and [kv_page_tokens, v_width]; q8: as q8_cache.h
  // lays them out.
  [[nodiscard]] const std::byte* k_page(std::uint32_t page, std::uint32_t layer, std::uint32_t head) const {
    return pages_[page].data() + layer * layer_bytes_ + head * k_head_bytes_;
  }
  [[nodiscard]] const std::byte* v_page(std::uint32_t page, std::uint32_t layer, std::uint32_t head) const {
    if (shape_.v_width == 0) return k_page(page, layer, head);
    return pages_[page].data() + layer * layer_bytes_ + shape_.n_kv_heads * k_head_bytes_ + head * v_head_bytes_;
  }
  // One token's row into the cache. k [k_width], v [v_width]
  void store_k(const simd::Kernels& kernels, std::uint32_t token, std::uint32_t layer, std::uint32_t head,
               const float* k);
  void store_v(const simd::Kernels& kernels, std::uint32_t token, std::uint32_t layer, std::uint32_t head,
               const float* v);
  // One token's row where it lies in one piece (not q8).
  [[nodiscard]] std::byte* k_row(std::uint32_t token, std::uint32_t layer, std::uint32_t head) {
    return const_cast<std::byte*>(k_page(token / kv_page_tokens, layer, head)) +
           (token % kv_page_tokens) * shape_.k_row_bytes();
  }
  [[nodiscard]] std::byte* v_row(std::uint32_t token, std::uint32_t layer, std::uint32_t head) {
    return const_cast<std::byte*>(v_page(token / kv_page_tokens, layer, head)) +
           (token % kv_page_tokens) * shape_.v_row_bytes();
  }

  // Snapshots: the rows of the first n_tokens, layer by layer, head by head, K before V. n_tokens · bytes_per_token.
  void write_rows(std::uint32_t n_tokens, std::span<std::byte> out) const;
  Result<void> read_rows(std::uint32_t n_tokens, std::span<const std::byte> in);

 private:
  // fn(rows of one layer and head in a page, whether they are values, how many), in snapshot order
  template <class Fn>
  void for_each_run(std::uint32_t n_tokens, Fn&& fn) const;

  KvShape shape_;
  std::uint32_t max_tokens_ = 0;
  std::size_t k_head_bytes_ = 0, v_head_bytes_ = 0;  // of one head in a page
  std::size_t layer_bytes_ = 0, page_bytes_ = 0;
  std::vector<Buffer<std::byte>> pages_;  // capacity for max_tokens from the start
};

}  // namespace r1::rt
