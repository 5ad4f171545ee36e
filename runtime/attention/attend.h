// How a team shares attention out. Two ways with the same bits:
//   many tokens    units of (8 tokens, group of heads); each unit walks the splits of the cache in order.
//   few tokens     units of (split, group of heads), so that one token's attention at depth keeps the whole team busy;
//   the
//                  parts are then folded in order of splits.
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
//   q [n_tokens, group.n_heads, d_qk] scaled; out [n_tokens, group.n_heads, d_v]
inline void attend_tile(Pass& pass, MemberScratch& own, const HeadGroup& group, const Tile& tile, const float* q,
                        float* out) {
  const std::uint32_t n_heads = group.n_heads;
  const SoftmaxPart part{own.part.data(), own.part.at(n_heads), own.part.at(2 * std::size_t{n_heads})};
  const auto total = [&](std::uint32_t t) {
    float* max = own.max_sum.at(2 * std::size_t{t} * n_heads);
    return SoftmaxPart{max, max + n_heads, out + std::size_t{t} * n_heads * group.d_v};
  };
  const auto slot = [&](std::uint32_t t) -> const TokenSlot& { return pass.slots[tile.first_token + t]; };
  std::uint32_t last_split = 0;
  for (std::uint32_t t = 0; t < tile.n_tokens; ++t) last_split = std::max(last_split, n_splits(slot(t).row + 1) - 1);
  for (std::uint32_t split = 0; split <= last_split; ++split) {
    for (std::uint32_t t = 0; t < tile.n_tokens; ++t) {  // inside: a split's rows serve all tokens from the cache
      const std::uint32_t n_kv = slot(t).row + 1;
      if (split >= n_splits(n_kv)) continue;
      attend_split(group, *slot(t).kv, n_kv, split, q + std::size_t{t} * n_heads * group.d_qk, group.d_qk, own.split,
                   split == 0 ? total(t) : part);
      if (split > 0) fold(n_heads, group.d_v, part, total(t));
    }
  }
  for (std::uint32_t t = 0; t < tile.n_tokens; ++t) finish(n_heads, group.d_v, total(t));
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
  const bool by_splits = n_tokens <= attention_tile_tokens && n_splits(longest) > 1 && count > 1;

  if (!by_splits) {
    const std::uint32_t n_tiles = (n_tokens + attention_tile_tokens - 1) / attention_tile_tokens;
    const HeadGroups groups(shape, n_tiles, count);
    for (std::uint32_t unit = index; unit < n_tiles * groups.size(); unit += count) {
      const std::uint32_t group = unit / n_tiles, first = unit % n_tiles * attention_tile_tokens;
      const Tile tile{first, std::min(attention_tile_tokens, n_tokens - first)};
      const Heads heads = groups.heads(group);
      query(tile, heads, own.q.data(), std::size_t{heads.n} * shape.d_qk);
      attend_tile(pass, own, head_group(groups.kv_head(group), heads.n), tile, own.q.data(), own.out.data());
      output(tile, heads, own.out.data(), std::size_t{heads.n} * shape.d_v);
    }
    return;
  }

  const Tile batch{0, n_tokens};
  const auto [head_begin, head_end] = member.share(shape.n_heads);
  const Heads own_heads{head_begin, head_end - head_begin};
  const std::size_t ldq = std::size_t{shape.n_heads} * shape.d_qk;
  query(batch, own_heads, s.split_q.at(std::size_t{head_begin} * shape.d_qk), ldq);
  member.barrier();

  const HeadGroups groups(shape, 1, 1);
  const auto part_of = [&](std::uint32_t split, std::uint32_t head) {
    float* part = s.split_parts[split].data();  // max, sum [n_heads]; out [n_heads, d_v]
    return SoftmaxPart{part + head, part + shape.n_heads + head,
                       part + 2 * std::size_t{shape.n_heads} + std::size_t{head} * shape.d_v};
  };
  for (std::uint32_t token = 0; token < n_tokens; ++token) {
    const TokenSlot& slot = pass.slots[token];
    const std::uint32_t n_kv = slot.row + 1;
    // Split by split: the rows of a split serve all groups of heads while they are in the cache.
    const auto [unit_begin, unit_end] = member.share(n_splits(n_kv) * groups.size());
    for (std::uint32_t unit = unit_begin; unit < unit_end; ++unit) {
      const std::uint32_t split = unit / groups.size(), group = unit % groups.size();
      const Heads heads = groups.heads(group);
      attend_split(head_group(groups.kv_head(group), heads.n), *slot.kv, n_kv, split,
                   s.split_q.at(token * ldq + std::size_t{heads.first} * shape.d_qk), shape.d_qk, own.split,
                   part_of(split, heads.first));
    }
    member.barrier();
    for (std::uint32_t head = head_begin; head < head_end; ++head) {
      const SoftmaxPart total = part_of(0, head);
      for (std::uint32_t split = 1; split < n_splits(n_kv); ++split) fold(1, shape.d_v, part_of(split, head), total);
      finish(1, shape.d_v, total);
      output(Tile{token, 1}, Heads{head, 1}, total.out, shape.d_v);
    }
    if (token + 1 < n_tokens) member.barrier();  // the parts are used again
  }
}

}  // namespace r1::rt
