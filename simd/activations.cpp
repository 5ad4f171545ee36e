#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#include "simd/kernels.h"

namespace r1::simd {
namespace {

constexpr std::size_t alignment = 64;

std::size_t round_up(std::size_t n, std::size_t to) {
  return (n + to - 1) / to * to;
}

// Rows 4 KiB apart would share the sets of a first-level cache, and sixteen of them are a tile of the matrix unit: 512
// tokens of k = 4,096, 8,192 and 16,384 ran at 64, 74 and 75 % of the speed they have a line further apart. Never less
// for a larger k.
std::size_t quantized_stride(std::size_t k_padded) {
  return k_padded % 4096 == 0 ? k_padded + alignment : k_padded;
}

// Where the arrays of a batch lie, for its largest size.
struct Layout {
  std::size_t q, q_step2, q_step4, scale, block_sum, bf16, end;

  Layout(std::size_t n_tokens, std::size_t k_padded) {
    const std::size_t n = n_tokens * k_padded;
    q = round_up(n * sizeof(float), alignment);
    const std::size_t n_quantized = n_tokens * quantized_stride(k_padded);
    q_step2 = q + n_quantized;
    q_step4 = q_step2 + n_quantized;
    scale = q_step4 + n_quantized;
    block_sum = scale + round_up(n / quant::superchunk_k * sizeof(float), alignment);
    bf16 = block_sum + round_up(n / quant::block_k * sizeof(std::int32_t), alignment);
    end = bf16 + round_up(n * sizeof(std::uint16_t), alignment);
  }
};

std::size_t padded(std::uint32_t k) {
  return round_up(k, quant::superchunk_k);
}

}  // namespace

const char* isa_name(Isa isa) {
  constexpr const char* names[n_isas] = {"scalar", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "amx"};
  return names[static_cast<int>(isa)];
}

std::size_t kv_element_bytes(KvType type) {
  return type == KvType::f32 ? 4 : 2;
}

std::size_t ActivationBuffer::bytes(std::uint32_t max_tokens, std::uint32_t max_k, bool reads_bf16) {
  const Layout at(max_tokens, padded(max_k));
  return reads_bf16 ? at.end : at.bf16;
}

ActivationBuffer::ActivationBuffer(std::uint32_t max_tokens, std::uint32_t max_k)
    : max_tokens_(max_tokens), max_k_(max_k) {
  const std::size_t n = bytes(max_tokens, max_k, true);
  // Zeroed pages that are committed when they are touched: most batches are smaller than the largest.
  allocated_ = std::calloc(1, n + alignment);
  if (allocated_ == nullptr) throw std::bad_alloc();
  const auto at = reinterpret_cast<std::uintptr_t>(allocated_);
  storage_ = static_cast<std::byte*>(allocated_) + (round_up(at, alignment) - at);
}

ActivationBuffer::~ActivationBuffer() {
  std::free(allocated_);
}

ActivationBuffer::ActivationBuffer(ActivationBuffer&& other) noexcept
    : allocated_(std::exchange(other.allocated_, nullptr)),
      storage_(std::exchange(other.storage_, nullptr)),
      max_tokens_(other.max_tokens_),
      max_k_(other.max_k_) {}

ActivationBuffer& ActivationBuffer::operator=(ActivationBuffer&& other) noexcept {
  std::swap(allocated_, other.allocated_);
  std::swap(storage_, other.storage_);
  std::swap(max_tokens_, other.max_tokens_);
  std::swap(max_k_, other.max_k_);
  return *this;
}

Activations ActivationBuffer::view(std::uint32_t n_tokens, std::uint32_t k) const {
  const Layout at(max_tokens_, padded(k));  // the same for all batches: what no product reads is never committed
  Activations view;
  view.n_tokens = n_tokens;
  view.k = k;
  view.k_padded = static_cast<std::uint32_t>(padded(k));
  view.x = reinterpret_cast<const float*>(storage_);
  view.q_stride = static_cast<std::uint32_t>(quantized_stride(view.k_padded));
  view.q = reinterpret_cast<const std::int8_t*>(storage_ + at.q);
  view.q_step2 = reinterpret_cast<const std::int8_t*>(storage_ + at.q_step2);
  view.q_step4 = reinterpret_cast<const std::int8_t*>(storage_ + at.q_step4);
  view.scale = reinterpret_cast<const float*>(storage_ + at.scale);
  view.block_sum = reinterpret_cast<const std::int32_t*>(storage_ + at.block_sum);
  view.bf16 = reinterpret_cast<const std::uint16_t*>(storage_ + at.bf16);
  return view;
}

}  // namespace r1::simd
