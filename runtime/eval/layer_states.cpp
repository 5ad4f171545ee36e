#include "runtime/eval/layer_states.h"

#include <algorithm>

namespace r1::eval {

LayerStates::LayerStates(const Windows& windows, std::uint32_t hidden_size, const std::vector<std::uint32_t>& layers,
                         std::uint64_t max_bytes)
    : hidden_size_(hidden_size), begins_(windows.begins) {
  const std::uint64_t bytes = windows.tokens.size() * sizeof(float) * hidden_size;
  const std::uint64_t most = bytes > 0 ? max_bytes / bytes : 0;
  if (most == 0) return;
  const std::uint64_t step = (layers.size() + most - 1) / most;
  for (std::size_t i = 0; i < layers.size(); i += step) {
    layers_.push_back(layers[i]);
    residuals_.emplace_back(windows.tokens.size() * std::size_t{hidden_size});
  }
}

rt::LayerCut LayerStates::cut(std::size_t i, std::uint32_t window) {
  return {layers_[i], residuals_[i].data() + begins_[window] * hidden_size_};
}

std::vector<rt::LayerCut> LayerStates::cuts(std::uint32_t window) {
  std::vector<rt::LayerCut> all;
  for (std::size_t i = 0; i < layers_.size(); ++i) all.push_back(cut(i, window));
  return all;
}

rt::LayerCut LayerStates::before(std::uint32_t layer, std::uint32_t window) {
  const auto behind = std::upper_bound(layers_.begin(), layers_.end(), layer);
  if (behind == layers_.begin()) return {};
  return cut(static_cast<std::size_t>(behind - layers_.begin() - 1), window);
}

}  // namespace r1::eval
