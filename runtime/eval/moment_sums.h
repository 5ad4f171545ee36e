// Sums of second moments Σ x xᵀ by a team of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "numa/thread_team.h"

namespace r1::eval {

// Adds the second moments of n_rows vectors to a triangle, row i of it holding columns 0 … i. Each member of the team
// adds rows of its own, over vectors in order: the sums are the same for any number of members.
class MomentSums {
 public:
  // For vectors of at most max_k values, at most max_rows of them at a time.
  MomentSums(int n_members, std::uint32_t max_k, std::uint32_t max_rows);

  // x [n_rows, k], ldx values apart; sums [quant::triangle_values(k)]
  void add(const numa::Member& member, const float* x, std::size_t ldx, std::uint32_t n_rows, std::uint32_t k,
           float* sums);

  // Memory that one takes.
  [[nodiscard]] static std::uint64_t bytes(int n_members, std::uint32_t max_k, std::uint32_t max_rows);

 private:
  static std::uint32_t padded(std::uint32_t k);

  std::vector<std::vector<float>> columns_;  // of each member [k / 16, n_rows, 16]: the vectors in strips of 16 columns
};

}  // namespace r1::eval
