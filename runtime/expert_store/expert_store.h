// Where the routed experts are. The forward pass asks for the experts that the router chose and waits for each when it
// needs it: a store whose experts are all in memory answers at once, one that streams them starts reading at request().
#pragma once

#include <r1/result.h>

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/model/weights.h"

namespace r1::rt {

class ExpertStore {
 public:
  virtual ~ExpertStore() = default;

  // The router of `layer` has chosen `experts` (ascending): reading may begin. Called by one member of the team;
  // returns at once and never fails (a failed read is wait()'s error).
  virtual void request(std::uint32_t layer, std::span<const std::uint32_t> experts) = 0;

  // How many experts of a layer may be held at once. A batch that needs more takes them in turns, in the order
  // requested.
  [[nodiscard]] virtual std::uint32_t max_held() const = 0;

  // The expert's weights, held until release(); null if they could not be had: error() says why. Any member, at any
  // time between request() and release(), side by side; all members get the same answer, so that all take the same way.
  [[nodiscard]] virtual const Mlp* wait(std::uint32_t layer, std::uint32_t expert) = 0;

  // All members are done with the experts of the layer that are held. Called by one member.
  virtual void release(std::uint32_t layer) = 0;

  // Why the last wait() gave null.
  [[nodiscard]] virtual Error error() const = 0;
};

// All experts mapped.
class ResidentStore final : public ExpertStore {
 public:
  static Result<ResidentStore> create(const ModelFile& file);

  void request(std::uint32_t, std::span<const std::uint32_t>) override {}
  [[nodiscard]] std::uint32_t max_held() const override { return n_experts_; }
  [[nodiscard]] const Mlp* wait(std::uint32_t layer, std::uint32_t expert) override {
    return &experts_[std::size_t{layer - first_layer_} * n_experts_ + expert];
  }
  void release(std::uint32_t) override {}
  [[nodiscard]] Error error() const override { return {}; }

 private:
  std::uint32_t first_layer_ = 0, n_experts_ = 0;
  std::vector<Mlp> experts_;  // [MoE layers, n_routed_experts]
};

}  // namespace r1::rt
