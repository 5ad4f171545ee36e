// How a team shares attention out. Two ways with the same bits:
//   many tokens    units of (8 tokens, group of heads); each unit walks the splits of the cache in order.
//   few tokens     units of (run of splits, group of heads), so that one token's attention at depth keeps the whole
//                  team busy; the runs are then folded in order.
#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime/attention/flash.h"
#include "runtime/model/pass.h"

namespace r1::rt {

struct Heads {
  std::uint32_t first = 0, n = 0;
};
struct Tile {
  std::uint32_t first_token = 0, n_tokens = 0;
};

// The heads of an attention layer as the cache sees them.
struct AttentionShape {
  std::uint32_t n_heads = 0, n_kv_heads = 1;
  std::uint32_t d_qk = 0, d_v = 0;
};

// Cuts the heads into groups that share a KV head: as wide as a tile's scratch allows, but enough groups for the team.
class HeadGroups {
 public:
  HeadGroups(const AttentionShape& shape, std::uint32_t n_tiles, std::uint32_t n_members)
      : per_kv_head_(shape.n_heads / shape.n_kv_heads), width_(std::min(per_kv_head_, attention_group_heads)) {
    const auto n_units = [&] { return shape.n_kv_heads * groups_per_kv_head() * n_tiles; };
    while (width_ > 1 && n_units() % n_members != 0 && n_units() < 8 * n_members) width_ = (width_ + 1) / 2;
    n_groups_ = shape.n_kv_heads * groups_per_kv_head();
  }
  [[nodiscard]] std::uint32_t size() const { return n_groups_; }
  [[nodiscard]] std::uint32_t kv_head(std::uint32_t group) const { return group / groups_per_kv_head(); }
  [[nodiscard]] Heads heads(std::uint32_t group) const {
    const std::uint32_t first = group % groups_per_kv_head() * width_;
    return {kv_head(group) * per_kv_head_ + first, std::min(width_, per_kv_head_ - first)};
  }

 private:
  [[nodiscard]] std::uint32_t groups_per_kv_head() const { return (per_kv_head_ + width_ - 1) / width_; }
  std::uint32_t per_kv_head_, width_, n_groups_ = 0;
};

// One tile of tokens, one group of heads, split by split.
//   queries: rows [n_tokens, group.n_heads]; out [n_tokens, group.n_heads, d_v]
inline void attend_tile(Pass& pass, MemberScratch& own, const HeadGroup& group, const Tile& tile,
                        const QueryBuffer& queries, float* out) {
  const std::uint32_t n_heads = group.n_heads;
  const auto softmax = [&](float* max_sum, float* to, std::uint32_t t) {
    float* max = max_sum + 2 * std::size_t{t} * n_heads;
    return SoftmaxPart{max, max + n_heads, to + std::size_t{t} * n_heads * group.d_v};
  };
  const auto total = [&](std::uint32_t t) { return softmax(own.max_sum.data(), out, t); };
  const auto of_run = [&](std::uint32_t t) { return softmax(own.run_max_sum.data(), own.run_out.data(), t); };
  const auto slot = [&](std::uint32_t t) -> const TokenSlot& { return pass.slots[tile.first_token + t]; };
  std::uint32_t last_split = 0;
  for (std::uint32_t t = 0; t < tile.n_tokens; ++t) last_split = std::max(last_split, n_splits(slot(t).row + 1) - 1);
  for (std::uint32_t split = 0; split <= last_split; ++split) {
    const bool first_run = split < run_splits, last_of_run = split % run_splits == run_splits - 1;
    for (std::uint32_t t = 0; t < tile.n_tokens; ++t) {  // inside: a split's rows serve all tokens from the cache
      const std::uint32_t n_kv = slot(t).row + 1;
      if (split >= n_splits(n_kv)) continue;
      attend_split(group, *slot(t).kv, n_kv, split, queries.view(slot(t).kv->shape(), std::size_t{t} * n_heads),
                   own.split, first_run ? total(t) : of_run(t));
      if (!first_run && (last_of_run || split + 1 == n_splits(n_kv))) fold(n_heads, group.d_v, of_run(t), total(t));
    }
  }
  for (std::uint32_t t = 0; t < tile.n_tokens; ++t) finish(n_heads, group.d_v, total(t));
}

// Which units of (run of splits, group of heads), runs first, a member computes of one token's attention: as many rows
// as the others, whatever is in the last run.
class RunShare {
 public:
  RunShare(std::uint32_t n_kv, std::uint32_t n_groups) : n_runs_(n_runs(n_kv)), n_groups_(n_groups) {
    last_rows_ = n_kv - (n_runs_ - 1) * run_rows;
  }
  // The first unit that does not belong to the members before i of n; i ≤ n.
  [[nodiscard]] std::uint32_t begin(std::uint64_t i, std::uint64_t n) const {
    const std::uint64_t whole = std::uint64_t{n_runs_ - 1} * n_groups_;  // units of whole runs
    const std::uint64_t rows = (whole * run_rows + std::uint64_t{n_groups_} * last_rows_) * i / n;
    const auto rounded = [](std::uint64_t x, std::uint64_t by) { return (x + by / 2) / by; };
    const std::uint64_t unit =
        rows < whole * run_rows ? rounded(rows, run_rows) : whole + rounded(rows - whole * run_rows, last_rows_);
    return static_cast<std::uint32_t>(unit);
  }

 private:
  static constexpr std::uint32_t run_rows = run_splits * split_tokens;
  std::uint32_t n_runs_, n_groups_, last_rows_ = 0;
};

// A member's share of one token's attention: the part of each run and each of its heads.
//   queries: rows [n_heads] from first_row; part_of(run, head): where the part of a run goes, from that head on
template <class PartOf>
void attend_runs(const numa::Member& member, const simd::Kernels& kernels, const KvCache& kv, std::uint32_t kv_layer,
                 std::uint32_t n_kv, const AttentionShape& shape, const QueryBuffer& queries, std::size_t first_row,
                 MemberScratch& own, PartOf&& part_of) {
  const HeadGroups groups(shape, n_runs(n_kv), static_cast<std::uint32_t>(member.count()));
  const RunShare share(n_kv, groups.size());
  const auto index = static_cast<std::uint64_t>(member.index()), count = static_cast<std::uint64_t>(member.count());
  const std::uint32_t end = share.begin(index + 1, count);
  for (std::uint32_t unit = share.begin(index, count), next; unit < end; unit = next) {
    // Split by split: the rows of a split serve some groups of heads while they are in the cache, and not more groups
    // than whose queries and sums the second-level cache holds beside them.
    const std::uint32_t pass_groups = kv.shape().type == simd::KvType::q8 ? 8 : 4;
    const std::uint32_t run = unit / groups.size();
    next = std::min({end, (run + 1) * groups.size(), unit + pass_groups});
    const std::uint32_t first_split = run * run_splits, end_split = std::min(first_split + run_splits, n_splits(n_kv));
    for (std::uint32_t split = first_split; split < end_split; ++split) {
      for (std::uint32_t u = unit; u < next; ++u) {
        const std::uint32_t group_index = u % groups.size();
        const Heads heads = groups.heads(group_index);
        const HeadGroup group{&kernels, kv_layer, groups.kv_head(group_index), heads.n, shape.d_qk, shape.d_v};
        attend_split(group, kv, n_kv, split, queries.view(kv.shape(), first_row + heads.first), own.split,
                     part_of(run, heads.first));
      }
    }
  }
}

// The attention of a batch. Both callbacks run on the member that has the unit.
//   query(tile, heads, q, ldq)        writes the scaled queries q[token · ldq + head · d_qk …] of tile and heads
//   output(tile, heads, out, ldo)     takes the result out[token · ldo + head · d_v …]
template <class Query, class Output>
void attend(const numa::Member& member, Pass& pass, std::uint32_t kv_layer, const AttentionShape& shape, Query&& query,
            Output&& output) {
  Scratch& s = pass.scratch;
  MemberScratch& own = pass.own(member);
  own.split.values_of = nullptr;
  const std::uint32_t n_tokens = pass.n_tokens();
  const auto index = static_cast<std::uint32_t>(member.index()), count = static_cast<std::uint32_t>(member.count());
  const auto head_group = [&](std::uint32_t kv_head, std::uint32_t n_heads) {
    return HeadGroup{&pass.kernels, kv_layer, kv_head, n_heads, shape.d_qk, shape.d_v};
  };

  std::uint32_t longest = 0;
  for (const TokenSlot& slot : pass.slots) longest = std::max(longest, slot.row + 1);
  if (n_tokens > attention_tile_tokens || n_splits(longest) == 1) {
    const std::uint32_t n_tiles = (n_tokens + attention_tile_tokens - 1) / attention_tile_tokens;
    const HeadGroups groups(shape, n_tiles, count);
    for (std::uint32_t unit = index; unit < n_tiles * groups.size(); unit += count) {
      const std::uint32_t group = unit / n_tiles, first = unit % n_tiles * attention_tile_tokens;
      const Tile tile{first, std::min(attention_tile_tokens, n_tokens - first)};
      const Heads heads = groups.heads(group);
      query(tile, heads, own.q.row(0), std::size_t{heads.n} * shape.d_qk);
      own.q.prepare(pass.kernels, pass.slots[0].kv->shape(), 0, std::size_t{tile.n_tokens} * heads.n);
      attend_tile(pass, own, head_group(groups.kv_head(group), heads.n), tile, own.q, own.out.data());
      output(tile, heads, own.out.data(), std::size_t{heads.n} * shape.d_v);
    }
    return;
  }

  const Tile batch{0, n_tokens};
  const auto [head_begin, head_end] = member.share(shape.n_heads);
  const Heads own_heads{head_begin, head_end - head_begin};
  const std::size_t ldq = std::size_t{shape.n_heads} * shape.d_qk;
  query(batch, own_heads, s.queries.row(head_begin), ldq);
  for (std::uint32_t token = 0; token < n_tokens; ++token) {
    s.queries.prepare(pass.kernels, pass.slots[token].kv->shape(), std::size_t{token} * shape.n_heads + head_begin,
                      own_heads.n);
  }
  member.barrier();

  const auto part_of = [&](std::uint32_t run, std::uint32_t head) {
    float* part = s.run_parts[run].data();  // max, sum [n_heads]; out [n_heads, d_v]
    return SoftmaxPart{part + head, part + shape.n_heads + head,
                       part + 2 * std::size_t{shape.n_heads} + std::size_t{head} * shape.d_v};
  };
  for (std::uint32_t token = 0; token < n_tokens; ++token) {
    const TokenSlot& slot = pass.slots[token];
    const std::uint32_t n_kv = slot.row + 1;
    attend_runs(member, pass.kernels, *slot.kv, kv_layer, n_kv, shape, s.queries, std::size_t{token} * shape.n_heads,
                own, part_of);
    member.barrier();
    for (std::uint32_t head = head_begin; head < head_end; ++head) {
      const SoftmaxPart total = part_of(0, head);
      for (std::uint32_t run = 1; run < n_runs(n_kv); ++run) fold(1, shape.d_v, part_of(run, head), total);
      finish(1, shape.d_v, total);
      output(Tile{token, 1}, Heads{head, 1}, total.out, shape.d_v);
    }
    if (token + 1 < n_tokens) member.barrier();  // the parts are used again
  }
}

}  // namespace r1::rt
