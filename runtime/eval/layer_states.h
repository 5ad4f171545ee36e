// The residual streams of a model over windows, as some of its layers find them, for models that differ only behind.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/eval/windows.h"
#include "runtime/model/buffer.h"
#include "runtime/model/pass.h"

namespace r1::eval {

class LayerStates {
 public:
  LayerStates() = default;
  // Of these layers, ascending, 1 … num_hidden_layers (there it is what the final norm reads); of every second, third,
  // … where all would take more than max_bytes. Throws std::bad_alloc.
  LayerStates(const Windows& windows, std::uint32_t hidden_size, const std::vector<std::uint32_t>& layers,
              std::uint64_t max_bytes);

  [[nodiscard]] bool empty() const { return layers_.empty(); }
  // Where a pass over the window keeps them all.
  [[nodiscard]] std::vector<rt::LayerCut> cuts(std::uint32_t window);
  // The last of them at or before `layer`; layer 0 and null if there is none.
  [[nodiscard]] rt::LayerCut before(std::uint32_t layer, std::uint32_t window);

 private:
  [[nodiscard]] rt::LayerCut cut(std::size_t i, std::uint32_t window);

  std::size_t hidden_size_ = 0;
  std::vector<std::uint64_t> begins_;  // Windows::begins
  std::vector<std::uint32_t> layers_;
  std::vector<rt::Buffer<float>> residuals_;  // [layers_.size()] of [tokens of all windows, hidden_size]
};

}  // namespace r1::eval
