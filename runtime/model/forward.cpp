#include "runtime/model/forward.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "quant/decode.h"
#include "runtime/model/layer.h"

namespace r1::rt {
namespace {

// Copies the residual stream for a trace. It stays as it is until the next barrier.
void record_hidden(const numa::Member& member, const Pass& pass, std::size_t stage) {
  if (pass.probe == nullptr || pass.probe->hidden == nullptr) return;
  const std::size_t hidden = pass.config.hidden_size;
  const auto [begin, end] = member.share(pass.n_tokens());
  std::copy_n(pass.scratch.residual.at(begin * hidden), (end - begin) * hidden,
              pass.probe->hidden + pass.probe->at(stage, begin, hidden));
}

// The residual stream → the cuts at `layer`; below, the cut that the pass starts at → the residual stream.
void keep(const numa::Member& member, const Pass& pass, std::uint32_t layer) {
  for (const LayerCut& cut : pass.kept_cuts) {
    if (cut.layer != layer) continue;
    const std::size_t hidden = pass.config.hidden_size;
    const auto [begin, end] = member.share(pass.n_tokens());
    for (std::uint32_t token = begin; token < end; ++token)
      std::copy_n(pass.scratch.residual.at(token * hidden), hidden, cut.residual + pass.slots[token].row * hidden);
  }
}

void restore(const numa::Member& member, Pass& pass) {
  const std::size_t hidden = pass.config.hidden_size;
  const auto [begin, end] = member.share(pass.n_tokens());
  for (std::uint32_t token = begin; token < end; ++token)
    std::copy_n(pass.start->residual + pass.slots[token].row * hidden, hidden,
                pass.scratch.residual.at(token * hidden));
  member.barrier();
}

std::uint32_t head_index(const ModelConfig& config) {
  return config.num_hidden_layers + config.num_nextn_predict_layers;
}

}  // namespace

void embed(const numa::Member& member, Pass& pass, float* out) {
  Scratch& s = pass.scratch;
  const Matrix& table = pass.weights.embed_tokens;
  const std::size_t hidden = pass.config.hidden_size, pairs = pass.rope.n_pairs();
  const auto [begin, end] = member.share(pass.n_tokens());
  for (std::uint32_t token = begin; token < end; ++token) {
    const auto id = static_cast<std::uint32_t>(pass.slots[token].id);
    quant::decode_rows(table.format, table.layout, {table.blob, table.layout.bytes}, id, id + 1, out + token * hidden);
    pass.rope.angles(pass.slots[token].position, s.cos.at(token * pairs), s.sin.at(token * pairs));
  }
  member.barrier();
  pass.mark(member, Phase::embedding);
}

void head(const numa::Member& member, Pass& pass, const float* norm) {
  const std::uint32_t n = pass.n_logit_tokens, first = pass.n_tokens() - n, hidden = pass.config.hidden_size;
  if (n == 0) return;
  Scratch& s = pass.scratch;
  const simd::Activations h = normalized(member, pass, head_index(pass.config), s.hidden_input,
                                         s.residual.at(std::size_t{first} * hidden), hidden, norm, n, hidden);
  if (pass.probe != nullptr && pass.probe->final_norm != nullptr && member.index() == 0) {
    for (std::uint32_t row = 0; row < n; ++row) {
      std::copy_n(simd::ActivationBuffer::x_row(h, row), hidden,
                  pass.probe->final_norm + pass.probe->at(0, first + row, hidden));
    }
  }
  const std::array<Product, 1> product = {
      Product{&pass.weights.lm_head, &h, 0, n, s.logits.data(), pass.config.vocab_size}};
  multiply(member, pass.kernels, product, pass.own(member).tile.data());
  pass.mark(member, Phase::head);
}

Result<void> outcome(const Pass& pass) {
  if (pass.expert_missing.load()) return pass.experts.error();
  std::uint32_t bad = pass.numeric_layer.load();
  const std::size_t n_logits = std::size_t{pass.n_logit_tokens} * pass.config.vocab_size;
  if (bad == Pass::no_layer && !pass.stopped && !all_finite(pass.scratch.logits.data(), n_logits)) {
    bad = head_index(pass.config);
  }
  if (bad != Pass::no_layer) {
    const std::string where =
        bad == head_index(pass.config) ? "the final norm or the head" : fmt::format("layer {}", bad);
    return Error{ErrorCode::numeric,
                 fmt::format("NaN or infinity in {}: the weights are damaged, or wrong since the checkpoint "
                             "(`r1-quantize verify` tells which)",
                             where),
                 {}};
  }
  if (pass.stopped) return Error{ErrorCode::cancelled, "cancelled", {}};
  return {};
}

Result<void> run_forward(numa::ThreadTeam& team, Pass& pass) {
  team.run([&](const numa::Member& member) {
    if (pass.profile != nullptr) pass.profile->start(member);
    embed(member, pass, pass.scratch.residual.data());
    if (pass.start != nullptr) restore(member, pass);
    record_hidden(member, pass, 0);
    for (const Layer& layer : pass.weights.layers) {
      if (pass.start != nullptr && layer.index < pass.start->layer) continue;
      if (!run_layer(member, pass, layer, layer.index)) return;
      record_hidden(member, pass, layer.index + 1);
      keep(member, pass, layer.index + 1);
    }
    head(member, pass, pass.weights.norm);
  });
  return outcome(pass);
}

}  // namespace r1::rt
