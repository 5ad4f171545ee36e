#include "runtime/kv_cache/kv_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "runtime/base/try.h"

namespace r1::rt {
namespace {

std::uint32_t pages_for(std::uint32_t n_tokens) {
  return (n_tokens + kv_page_tokens - 1) / kv_page_tokens;
}

double gib(double bytes) {
  return bytes / (1024.0 * 1024.0 * 1024.0);
}

}  // namespace

std::size_t KvShape::bytes_per_token() const {
  return std::size_t{n_layers} * n_kv_heads * (k_row_bytes() + v_row_bytes());
}

std::size_t KvShape::k_row_bytes() const {
  return type == simd::KvType::q8 ? q8_keys().row_bytes() : k_width * simd::kv_element_bytes(type);
}

std::size_t KvShape::v_row_bytes() const {
  if (v_width == 0) return 0;
  return type == simd::KvType::q8 ? q8_values().row_bytes() : v_width * simd::kv_element_bytes(type);
}

simd::Q8KeyShape KvShape::q8_keys() const {
  return {kv_page_tokens, {k_width - k_rope_width, k_rope_width}};
}

simd::Q8ValueShape KvShape::q8_values() const {
  return {kv_page_tokens, v_width};
}

KvShape kv_shape(const ModelConfig& config, simd::KvType type, bool with_mtp_layers) {
  KvShape shape;
  shape.type = type;
  shape.n_layers = config.num_hidden_layers + (with_mtp_layers ? config.num_nextn_predict_layers : 0);
  if (config.is_mla()) {
    shape.k_width = config.kv_lora_rank + config.qk_rope_head_dim;
    shape.k_rope_width = config.qk_rope_head_dim;
  } else {
    shape.n_kv_heads = config.num_key_value_heads;
    shape.k_width = shape.v_width = config.head_dim;
  }
  return shape;
}

Result<std::uint32_t> plan_context(const KvShape& shape, std::uint32_t wanted, std::uint32_t model_maximum,
                                   std::uint64_t memory_available_bytes) {
  const std::uint64_t token_bytes = shape.bytes_per_token();
  const std::uint64_t page_bytes = token_bytes * kv_page_tokens;
  const std::uint64_t fitting_tokens = memory_available_bytes / page_bytes * kv_page_tokens;
  if (wanted > model_maximum) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("a context of {} tokens is more than the model's {}", wanted, model_maximum), "context"};
  }
  const std::uint32_t tokens = wanted != 0 ? wanted : model_maximum;
  if (tokens <= fitting_tokens) return tokens;
  if (wanted == 0 && fitting_tokens > 0) return static_cast<std::uint32_t>(fitting_tokens);
  return Error{ErrorCode::out_of_memory,
               fmt::format("a KV cache of {} tokens needs {:.2f} GiB ({} bytes a token), but {:.2f} GiB of memory are "
                           "available: ask for at most {} tokens of context, or a smaller KV type",
                           tokens, gib(static_cast<double>(token_bytes) * tokens), token_bytes,
                           gib(static_cast<double>(memory_available_bytes)), fitting_tokens),
               "context"};
}

KvCache::KvCache(const KvShape& shape, std::uint32_t max_tokens) : shape_(shape), max_tokens_(max_tokens) {
  const bool q8 = shape.type == simd::KvType::q8;
  const auto aligned = [](std::size_t bytes) { return (bytes + 63) / 64 * 64; };
  k_head_bytes_ = aligned(q8 ? shape.q8_keys().page_bytes() : shape.k_row_bytes() * kv_page_tokens);
  v_head_bytes_ =
      shape.v_width == 0 ? 0 : aligned(q8 ? shape.q8_values().page_bytes() : shape.v_row_bytes() * kv_page_tokens);
  layer_bytes_ = shape.n_kv_heads * (k_head_bytes_ + v_head_bytes_);
  page_bytes_ = layer_bytes_ * shape.n_layers;
  pages_.reserve(pages_for(max_tokens));
}

Result<void> KvCache::grow(std::uint32_t n_tokens) {
  if (n_tokens > max_tokens_) {
    return Error{
        ErrorCode::context_full, fmt::format("{} tokens do not fit a context of {}", n_tokens, max_tokens_), {}};
  }
  while (n_pages() < pages_for(n_tokens)) {
    try {
      pages_.emplace_back(page_bytes_);
    } catch (const std::bad_alloc&) {
      return Error{
          ErrorCode::out_of_memory,
          fmt::format("no memory for the KV cache of tokens {} … {}: {:.2f} GiB more, behind {:.2f} GiB",
                      n_pages() * kv_page_tokens, (n_pages() + 1) * kv_page_tokens - 1,
                      gib(static_cast<double>(page_bytes_)), gib(static_cast<double>(page_bytes_) * n_pages())),
          {}};
    }
  }
  return {};
}

void KvCache::shrink(std::uint32_t n_tokens) {
  while (n_pages() > pages_for(n_tokens)) pages_.pop_back();
}

Result<KvCache> KvCache::copy(std::uint32_t n_tokens) const {
  KvCache twin(shape_, max_tokens_);
  R1_CHECK(twin.grow(n_tokens));
  for (std::uint32_t page = 0; page < twin.n_pages(); ++page) {
    std::memcpy(twin.pages_[page].data(), pages_[page].data(), page_bytes_);
  }
  return twin;
}

void KvCache::store_k(const simd::Kernels& kernels, std::uint32_t token, std::uint32_t layer, std::uint32_t head,
                      const float* k) {
  if (shape_.type == simd::KvType::q8) {
    auto* page = const_cast<std::byte*>(k_page(token / kv_page_tokens, layer, head));
    simd::store_q8_key(shape_.q8_keys(), k, page, token % kv_page_tokens);
  } else {
    kernels.store_kv(shape_.type, k, shape_.k_width, k_row(token, layer, head));
  }
}

void KvCache::store_v(const simd::Kernels& kernels, std::uint32_t token, std::uint32_t layer, std::uint32_t head,
                      const float* v) {
  if (shape_.type == simd::KvType::q8) {
    auto* page = const_cast<std::byte*>(v_page(token / kv_page_tokens, layer, head));
    simd::store_q8_value(shape_.q8_values(), v, page, token % kv_page_tokens);
  } else {
    kernels.store_kv(shape_.type, v, shape_.v_width, v_row(token, layer, head));
  }
}

template <class Fn>
void KvCache::for_each_run(std::uint32_t n_tokens, Fn&& fn) const {
  for (std::uint32_t layer = 0; layer < shape_.n_layers; ++layer) {
    for (const bool values : {false, true}) {
      if (values && shape_.v_width == 0) continue;
      for (std::uint32_t head = 0; head < shape_.n_kv_heads; ++head) {
        for (std::uint32_t first = 0; first < n_tokens; first += kv_page_tokens) {
          const std::uint32_t page = first / kv_page_tokens;
          const std::byte* rows = values ? v_page(page, layer, head) : k_page(page, layer, head);
          fn(const_cast<std::byte*>(rows), values, std::min(kv_page_tokens, n_tokens - first));
        }
      }
    }
  }
}

void KvCache::write_rows(std::uint32_t n_tokens, std::span<std::byte> out) const {
  std::byte* to = out.data();
  for_each_run(n_tokens, [&](const std::byte* page, bool values, std::uint32_t n_rows) {
    const std::size_t row_bytes = values ? shape_.v_row_bytes() : shape_.k_row_bytes();
    if (shape_.type != simd::KvType::q8) {
      std::memcpy(to, page, row_bytes * n_rows);
      to += row_bytes * n_rows;
      return;
    }
    for (std::uint32_t row = 0; row < n_rows; ++row, to += row_bytes) {
      if (values) {
        simd::read_q8_value(shape_.q8_values(), page, row, to);
      } else {
        simd::read_q8_key(shape_.q8_keys(), page, row, to);
      }
    }
  });
}

Result<void> KvCache::read_rows(std::uint32_t n_tokens, std::span<const std::byte> in) {
  if (in.size() != n_tokens * shape_.bytes_per_token()) {
    return Error{ErrorCode::corrupt,
                 fmt::format("{} bytes where {} tokens of KV cache take {}", in.size(), n_tokens,
                             n_tokens * shape_.bytes_per_token()),
                 {}};
  }
  R1_CHECK(grow(n_tokens));
  const std::byte* from = in.data();
  for_each_run(n_tokens, [&](std::byte* page, bool values, std::uint32_t n_rows) {
    const std::size_t row_bytes = values ? shape_.v_row_bytes() : shape_.k_row_bytes();
    if (shape_.type != simd::KvType::q8) {
      std::memcpy(page, from, row_bytes * n_rows);
      from += row_bytes * n_rows;
      return;
    }
    for (std::uint32_t row = 0; row < n_rows; ++row, from += row_bytes) {
      if (values) {
        simd::write_q8_value(shape_.q8_values(), from, page, row);
      } else {
        simd::write_q8_key(shape_.q8_keys(), from, page, row);
      }
    }
  });
  return {};
}

}  // namespace r1::rt
