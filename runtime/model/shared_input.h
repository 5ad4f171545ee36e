// An input that several matrices read, quantized once.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "numa/thread_team.h"
#include "simd/kernels.h"

namespace r1::rt {

// Few rows (decode): every member makes its own copy, which is cheaper than one member working while the others wait,
// and needs no barrier. Many rows (prefill): the members share the rows out and meet at a barrier.
class SharedInput {
 public:
  SharedInput() = default;
  SharedInput(int n_threads, std::uint32_t max_rows, std::uint32_t max_own_rows, std::uint32_t max_k)
      : max_own_rows_(max_own_rows), shared_(max_rows, max_k) {
    for (int i = 0; i < n_threads; ++i) own_.emplace_back(max_own_rows, max_k);
  }

  // fill(row, x) writes row `row` [k]. Sources must stay untouched until the next barrier. False in *finite if a row
  // holds NaN or infinity (true is left alone).
  template <class Fill>
  [[nodiscard]] simd::Activations prepare(const numa::Member& member, const simd::Kernels& kernels,
                                          std::uint32_t n_rows, std::uint32_t k, bool* finite, Fill&& fill) {
    const bool own = n_rows <= max_own_rows_;
    const simd::Activations view = (own ? own_[static_cast<std::size_t>(member.index())] : shared_).view(n_rows, k);
    const auto [begin, end] = own ? std::pair{std::uint32_t{0}, n_rows} : member.share(n_rows);
    for (std::uint32_t row = begin; row < end; ++row) {
      fill(row, simd::ActivationBuffer::x_row(view, row));
      if (!kernels.quantize_row(view, row)) *finite = false;
    }
    if (!own) member.barrier();
    return view;
  }

 private:
  std::uint32_t max_own_rows_ = 0;
  simd::ActivationBuffer shared_;
  std::vector<simd::ActivationBuffer> own_;  // [n_threads]
};

}  // namespace r1::rt
