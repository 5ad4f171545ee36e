// Internal to simd/: what kernels know about a packed format at compile time (quant::info says the same at run time),
// and the batches they are instantiated for. Internal linkage: nothing compiled with the flags of one instruction set
// may stand in for the same function in a file without them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd/kernels.h"

namespace r1::simd {
namespace {

// The strings of a trellis format.
struct TrellisShape {
  int group_weights, group_bytes;
  int step_even, step_odd;  // bits
  bool s8;                  // 8-bit scales

  [[nodiscard]] constexpr int groups() const { return static_cast<int>(quant::block_k) / group_weights; }  // of a block
  [[nodiscard]] constexpr int cuts() const { return group_weights / 8; }  // of a group, eight windows each
  // Eight bytes and one step: rotations bring windows to byte boundaries, in the order of q_step2 and q_step4.
  [[nodiscard]] constexpr bool rotates() const { return group_bytes == 8; }
  [[nodiscard]] constexpr int scale_bytes() const { return s8 ? 64 : 32; }  // of a superchunk
  [[nodiscard]] constexpr int block_bytes() const { return groups() * 16 * group_bytes; }
  [[nodiscard]] constexpr int superchunk_bytes() const { return scale_bytes() + 4 * block_bytes(); }
  [[nodiscard]] constexpr int bit_offset(int weight) const {
    return weight / 2 * (step_even + step_odd) + weight % 2 * step_even;
  }
};

constexpr TrellisShape trellis_shape(quant::Format format) {
  switch (format) {
    case quant::Format::t2:
      return {32, 8, 2, 2, false};
    case quant::Format::t2_5:
      return {16, 5, 2, 3, false};
    case quant::Format::t3:
      return {16, 6, 3, 3, false};
    case quant::Format::t3_5:
      return {16, 7, 3, 4, false};
    case quant::Format::t4:
      return {16, 8, 4, 4, false};
    case quant::Format::t4h:
      return {16, 8, 4, 4, true};
    case quant::Format::t5:
      return {8, 5, 5, 5, true};
    default:
      return {8, 6, 6, 6, true};  // nl6
  }
}

// Where the two strings of each 16-byte lane of a register begin.
struct LaneOffsets {
  int at[4];
};

constexpr int w8_superchunk_bytes = 64 + 4 * 512;

// The activations of NT tokens in the order a format wants. Fewer tokens than NT: the last one is repeated, which costs
// less than a second walk over the weights; its repetitions are not stored.
template <quant::Format F, int NT>
struct Inputs {
  const std::int8_t* q[NT];
  const float* scale[NT];             // [superchunk]
  const std::int32_t* block_sum[NT];  // [block]
  int n_tokens;

  Inputs(const Activations& x, std::uint32_t token_begin, std::uint32_t n) : n_tokens(static_cast<int>(n)) {
    const std::int8_t* ordered = F == quant::Format::t2                              ? x.q_step2
                                 : F == quant::Format::t4 || F == quant::Format::t4h ? x.q_step4
                                                                                     : x.q;
    for (int t = 0; t < NT; ++t) {
      const std::size_t token = token_begin + static_cast<std::size_t>(t < n_tokens ? t : n_tokens - 1);
      q[t] = ordered + token * x.q_stride;
      scale[t] = x.scale + token * (x.k_padded / quant::superchunk_k);
      block_sum[t] = x.block_sum + token * (x.k_padded / quant::block_k);
    }
  }
};

// Calls body.operator()<NT>() with the smallest instance for a batch of n_tokens.
template <class Body>
inline void for_batch(std::uint32_t n_tokens, Body&& body) {
  if (n_tokens > 4) return body.template operator()<8>();
  if (n_tokens > 2) return body.template operator()<4>();
  if (n_tokens > 1) return body.template operator()<2>();
  body.template operator()<1>();
}

}  // namespace
}  // namespace r1::simd
