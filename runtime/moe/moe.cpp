#include "runtime/moe/moe.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "runtime/moe/mlp_pool.h"
#include "runtime/moe/router.h"

namespace r1::rt {
namespace {

// Affinities of every token to every expert, and from them the choice. A single token is routed by every member for
// itself.
const Routing& route(const numa::Member& member, Pass& pass, const Moe& w, const simd::Activations& h) {
  const ModelConfig& c = pass.config;
  Scratch& s = pass.scratch;
  MemberScratch& own = pass.own(member);
  const std::uint32_t n_tokens = pass.n_tokens();
  const std::array<Product, 1> gate = {
      Product{&w.gate, &h, 0, n_tokens, s.router_logits.data(), c.n_routed_experts, true}};
  multiply(member, pass.kernels, gate, pass.own(member).tile.data());
  member.barrier();

  const bool alone = n_tokens == 1;
  Routing& routing = alone ? own.routing : s.routing;
  const auto [begin, end] = alone ? std::pair{std::uint32_t{0}, std::uint32_t{1}} : member.share(n_tokens);
  for (std::uint32_t token = begin; token < end; ++token) {
    choose_experts(c, s.router_logits.at(std::size_t{token} * c.n_routed_experts), w.e_score_correction_bias,
                   own.router.data(), routing.expert_ids.at(std::size_t{token} * c.num_experts_per_tok),
                   routing.weights.at(std::size_t{token} * c.num_experts_per_tok));
  }
  if (!alone) member.barrier();
  return routing;
}

void record(const Pass& pass, const Layer& layer, const Routing& routing) {
  const std::size_t top_k = pass.config.num_experts_per_tok;
  const std::size_t at = pass.probe->at(layer.index - pass.config.first_k_dense_replace, 0, top_k);
  std::copy_n(routing.expert_ids.data(), pass.n_tokens() * top_k, pass.probe->router_ids + at);
  std::copy_n(routing.weights.data(), pass.n_tokens() * top_k, pass.probe->router_weights + at);
}

// The batch's (token, expert) pairs sorted by expert, tokens in order: own.groups, own.row_token, own.row_weight. Every
// member sorts for itself.
void group_by_expert(const Pass& pass, const Routing& routing, MemberScratch& own) {
  const std::uint32_t top_k = pass.config.num_experts_per_tok, n_pairs = pass.n_tokens() * top_k;
  std::uint32_t* count = own.n_rows_of_expert.data();
  std::fill_n(count, pass.config.n_routed_experts, 0u);
  for (std::uint32_t i = 0; i < n_pairs; ++i) ++count[routing.expert_ids[i]];
  own.groups.clear();
  std::uint32_t first_row = 0;
  for (std::uint32_t expert = 0; expert < pass.config.n_routed_experts; ++expert) {
    if (count[expert] == 0) continue;
    own.groups.push_back({expert, first_row, count[expert]});
    first_row += count[expert];
  }
  std::uint32_t* next_row = count;
  for (const ExpertGroup& group : own.groups) next_row[group.expert] = group.first_row;
  for (std::uint32_t i = 0; i < n_pairs; ++i) {
    const std::uint32_t row = next_row[routing.expert_ids[i]]++;
    own.row_token[row] = i / top_k;
    own.row_weight[row] = routing.weights[i];
  }
}

// What products with a wave's matrices read of their input, besides the codes in order of k.
struct Reads {
  bool floats = false, step2 = false, step4 = false, bf16 = false;
  void add(const simd::Kernels& kernels, const Matrix& w) {
    bf16 = bf16 || kernels.wide_gemm[static_cast<int>(w.format)].reads_bf16;
    floats = floats || !quant::info(w.format).is_packed();
    step2 = step2 || w.format == quant::Format::t2;
    step4 = step4 || w.format == quant::Format::t4 || w.format == quant::Format::t4h;
  }
};

void copy_row(const simd::Activations& from, std::uint32_t from_row, const simd::Activations& to, std::uint32_t to_row,
              const Reads& reads) {
  const auto copy = [&](const auto* source, const auto* target, std::size_t n) {
    std::memcpy(const_cast<void*>(static_cast<const void*>(target + to_row * n)), source + from_row * n,
                n * sizeof(*source));
  };
  if (reads.floats) copy(from.x, to.x, from.k_padded);
  copy(from.q, to.q, from.q_stride);
  if (reads.step2) copy(from.q_step2, to.q_step2, from.q_stride);
  if (reads.step4) copy(from.q_step4, to.q_step4, from.q_stride);
  copy(from.scale, to.scale, from.k_padded / quant::superchunk_k);
  copy(from.block_sum, to.block_sum, from.k_padded / quant::block_k);
  if (reads.bf16) {
    constexpr std::size_t step_k = simd::Activations::bf16_step_k;
    for (std::size_t step = 0; step < from.k_padded / step_k; ++step) {
      std::memcpy(const_cast<std::uint16_t*>(to.bf16) + (step * to.n_tokens + to_row) * step_k,
                  from.bf16 + (step * from.n_tokens + from_row) * step_k, step_k * sizeof(*to.bf16));
    }
  }
}

// The inputs of a wave's rows of the sorted batch, side by side. row_token [n_rows]
void gather(const numa::Member& member, const simd::Activations& h, const std::uint32_t* row_token, const Reads& reads,
            const simd::Activations& rows) {
  const auto [begin, end] = member.share(rows.n_tokens);
  for (std::uint32_t row = begin; row < end; ++row) copy_row(h, row_token[row], rows, row, reads);
  member.barrier();
}

}  // namespace

void moe(const numa::Member& member, Pass& pass, const Layer& layer, const simd::Activations& h) {
  const Moe& w = *layer.moe;
  Scratch& s = pass.scratch;
  MemberScratch& own = pass.own(member);
  const std::uint32_t n_tokens = pass.n_tokens();

  const Routing& routing = route(member, pass, w, h);
  pass.mark(member, Phase::router);
  group_by_expert(pass, routing, own);
  if (member.index() == 0) {
    own.requested.clear();
    for (const ExpertGroup& group : own.groups) own.requested.push_back(group.expert);
    pass.experts.request(layer.index, own.requested);
    if (pass.probe != nullptr && pass.probe->router_ids != nullptr) record(pass, layer, routing);
  }

  // Waves of experts whose rows fit the gathered input; one wave but for very large batches. The shared expert goes
  // last.
  for (std::size_t first = 0, last = 0; first < own.groups.size(); first = last) {
    const std::uint32_t first_row = own.groups[first].first_row;
    std::uint32_t n_rows = 0;
    const auto fits = [&](const ExpertGroup& group) {
      return n_rows + group.n_rows <= s.max_expert_rows && last - first < pass.experts.max_held();
    };
    for (; last < own.groups.size() && (last == first || fits(own.groups[last])); ++last)
      n_rows += own.groups[last].n_rows;
    // A single token's experts all read the same row.
    const bool alone = n_tokens == 1;
    const simd::Activations x = alone ? h : s.expert_input.view(n_rows, h.k);

    Reads reads;
    reads.floats = pass.observer != nullptr;  // it looks at them
    own.jobs.clear();
    for (std::size_t i = first; i < last; ++i) {
      const ExpertGroup& group = own.groups[i];
      const Mlp* expert = pass.experts.wait(layer.index, group.expert);
      if (expert == nullptr) {
        pass.expert_missing.store(true, std::memory_order_relaxed);
        continue;
      }
      reads.add(pass.kernels, expert->gate_proj);
      reads.add(pass.kernels, expert->up_proj);
      const std::uint32_t row = group.first_row - first_row;
      own.jobs.push_back({expert, x, alone ? 0 : row, group.n_rows, &s.routed, row, own.row_token.at(group.first_row),
                          own.row_weight.at(group.first_row), static_cast<int>(group.expert)});
    }
    if (!alone) gather(member, h, own.row_token.at(first_row), reads, x);
    if (last == own.groups.size() && w.shared_experts) {
      own.jobs.push_back({&*w.shared_experts, h, 0, n_tokens, &s.dense, 0, nullptr, nullptr});
    }
    run_mlps(member, pass, layer, own.jobs);
    if (last < own.groups.size()) {  // the wave's buffers and experts give way to the next
      member.barrier();
      if (member.index() == 0) pass.experts.release(layer.index);
      member.barrier();
    }
  }
}

void mlp(const numa::Member& member, Pass& pass, const Layer& layer, const Mlp& w, const simd::Activations& h) {
  const MlpJob job{&w, h, 0, pass.n_tokens(), &pass.scratch.dense, 0, nullptr, nullptr};
  run_mlps(member, pass, layer, {&job, 1});
}

}  // namespace r1::rt
