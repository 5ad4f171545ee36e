// Error feedback between column blocks (LDLQ; Chee et al., "QuIP", 2023): what a block of a row is off by is made up
// for by the blocks behind it, as far as their inputs are correlated with its own.
//
// The second moments of a matrix's input, H = Σ x xᵀ over tokens, are factored by blocks of 32 k as
// H = (U + I) D (U + I)ᵀ, U strictly upper and D block-diagonal. A row with error e costs e H eᵀ on the calibration
// text, which is the sum over blocks b of η_b D_b η_bᵀ with η_b = e_b + Σ_{a < b} e_a U_ab. So the search for block b
// is given the target w_b + Σ_{a < b} e_a U_ab and the diagonal of D_b as importance.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "quant/format.h"

namespace r1::quant {

// Values of a k × k symmetric matrix's lower triangle, row by row: row i holds columns 0 … i.
[[nodiscard]] constexpr std::size_t triangle_values(std::size_t k) {
  return k * (k + 1) / 2;
}

// Runs fn(i) for every i < n, in any order, by any number of threads.
using ForEach = std::function<void(std::size_t n, const std::function<void(std::size_t i)>& fn)>;

// Prepared once for an input, shared by all matrices that read it.
class Feedback {
 public:
  // moments [triangle_values(k)] of H, of any scale. None if they tell nothing: all zero, or not a matrix of moments
  // (not finite, not positive even when damped). The result does not depend on for_each.
  [[nodiscard]] static std::optional<Feedback> of(std::uint32_t k, std::span<const float> moments,
                                                  const ForEach& for_each);
  // Memory that one takes, while it is made and after.
  [[nodiscard]] static std::uint64_t bytes(std::uint32_t k);

  [[nodiscard]] std::uint32_t k() const { return k_; }
  [[nodiscard]] std::uint32_t n_blocks() const { return n_blocks_; }
  [[nodiscard]] std::span<const float> importance() const { return importance_; }  // [k] the diagonal of D
  // U_ab [32, 32], a < b < n_blocks.
  [[nodiscard]] const float* factor(std::uint32_t a, std::uint32_t b) const { return block(a, b); }

 private:
  explicit Feedback(std::uint32_t k);
  bool factorise(std::span<const float> moments, float damping, const ForEach& for_each);
  [[nodiscard]] const float* block(std::uint32_t a, std::uint32_t b) const {
    return strips_.data() + strip_offset(a) + std::size_t{b - a} * block_k * block_k;
  }
  float* block(std::uint32_t a, std::uint32_t b) {
    return strips_.data() + strip_offset(a) + std::size_t{b - a} * block_k * block_k;
  }
  // Strip a holds the blocks (a, a), (a, a + 1) … one behind the other.
  [[nodiscard]] std::size_t strip_offset(std::uint32_t a) const {
    return (std::size_t{a} * n_blocks_ - std::size_t{a} * (a - 1) / 2) * block_k * block_k;
  }

  std::uint32_t k_, n_blocks_;
  std::vector<float> importance_;
  std::vector<float> strips_;
};

}  // namespace r1::quant
