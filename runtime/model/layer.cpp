#include "runtime/model/layer.h"

#include <algorithm>
#include <cstring>

#include "runtime/attention/gqa.h"
#include "runtime/attention/mla.h"
#include "runtime/model/work_share.h"
#include "runtime/moe/moe.h"

namespace r1::rt {
namespace {

void feed_forward(const numa::Member& member, Pass& pass, const Layer& layer) {
  const simd::Activations h =
      normalized(member, pass, layer.index, pass.scratch.hidden_input, pass.scratch.residual.data(),
                 pass.config.hidden_size, layer.post_attention_layernorm, pass.n_tokens(), pass.config.hidden_size);
  show_input(member, pass, InputRole::mlp, layer.index, h, 0, pass.n_tokens());
  if (layer.moe) {
    moe(member, pass, layer, h);
  } else {
    mlp(member, pass, layer, *layer.mlp, h);
  }
}

// Member 0 decides, so that all members leave at the same barrier.
bool end_of_layer(const numa::Member& member, Pass& pass) {
  if (member.index() == 0) {
    pass.stopped = pass.numeric_layer.load(std::memory_order_relaxed) != Pass::no_layer ||
                   pass.expert_missing.load(std::memory_order_relaxed) ||
                   (pass.cancel != nullptr && pass.cancel->load(std::memory_order_relaxed));
  }
  member.barrier();
  return !pass.stopped;
}

}  // namespace

void project_heads(const numa::Member& member, Pass& pass, const Layer& layer, const Matrix& o_proj) {
  Scratch& s = pass.scratch;
  const std::uint32_t n_tokens = pass.n_tokens(), hidden = pass.config.hidden_size, width = o_proj.k();
  bool finite = true;
  const simd::Activations heads =
      s.wide_input.prepare(member, pass.kernels, n_tokens, width, &finite, [&](std::uint32_t token, float* out) {
        std::memcpy(out, s.heads.at(std::size_t{token} * width), width * sizeof(float));
      });
  if (!finite) pass.report_not_finite(layer.index);
  show_input(member, pass, InputRole::o, layer.index, heads, 0, n_tokens);

  const Product product{&o_proj, &heads, 0, n_tokens, s.projected.data(), hidden};
  const std::uint32_t unit_rows = panels_per_unit(product) * quant::panel_rows;
  const auto [unit_begin, unit_end] = member.share(n_units(product));
  multiply_units(pass.kernels, product, unit_begin, unit_end, pass.own(member).tile.data());
  const std::uint32_t begin = std::min(unit_begin * unit_rows, hidden), end = std::min(unit_end * unit_rows, hidden);
  for (std::uint32_t token = 0; token < n_tokens; ++token) {
    const float* y = s.projected.at(std::size_t{token} * hidden);
    add_to_residual(pass, layer.index, token, 1.0f, y, begin, end);
    if (pass.probe != nullptr && pass.probe->attn_out != nullptr) {
      std::copy(y + begin, y + end, pass.probe->attn_out + pass.probe->at(layer.index, token, hidden) + begin);
    }
  }
}

bool run_layer(const numa::Member& member, Pass& pass, const Layer& layer, std::uint32_t kv_layer) {
  if (layer.mla) {
    mla(member, pass, layer, kv_layer);
  } else {
    gqa(member, pass, layer, kv_layer);
  }
  member.barrier();
  pass.mark(member, Phase::attention_projections);
  feed_forward(member, pass, layer);
  const bool go_on = end_of_layer(member, pass);
  pass.mark(member, layer.moe ? Phase::experts : Phase::dense_mlp);
  if (layer.moe && member.index() == 0) pass.experts.release(layer.index);  // behind the barrier: nobody reads them now
  return go_on;
}

}  // namespace r1::rt
