#include <fmt/format.h>

#include "runtime/expert_store/expert_store.h"

namespace r1::rt {

Result<ResidentStore> ResidentStore::create(const ModelFile& file) {
  const ModelConfig& config = file.config();
  ResidentStore store;
  if (!config.is_moe()) return store;
  store.first_layer_ = config.first_k_dense_replace;
  store.n_experts_ = config.n_routed_experts;
  const std::uint32_t n_layers = config.num_hidden_layers + config.num_nextn_predict_layers;
  for (std::uint32_t layer = store.first_layer_; layer < n_layers; ++layer) {
    for (std::uint32_t expert = 0; expert < store.n_experts_; ++expert) {
      const std::string name = fmt::format("model.layers.{}.mlp.experts.{}", layer, expert);
      const BlobInfo* blob = file.find(name);
      if (blob == nullptr || blob->parts.size() != 3) {
        return Error{ErrorCode::corrupt, fmt::format("the expert {} is missing", name), file.directory()};
      }
      store.experts_.push_back({blob->parts[0], blob->parts[1], blob->parts[2]});
    }
  }
  return store;
}

}  // namespace r1::rt
