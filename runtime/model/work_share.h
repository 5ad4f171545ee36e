// How the members of a team divide the panels of several matrices among themselves.
#pragma once

#include <algorithm>
#include <cstdint>

#include "numa/thread_team.h"

namespace r1::rt {

// Items 0 … n_items − 1 stand side by side as one pool: item i has units(i) units of cost(i) each. The pool is cut into
// count() runs of equal cost, between units, and fn(item, unit_begin, unit_end) is called for the pieces of this
// member's.
template <class Units, class Cost, class Fn>
void for_each_share(const numa::Member& member, std::size_t n_items, Units&& units, Cost&& cost, Fn&& fn) {
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < n_items; ++i) total += std::uint64_t{units(i)} * cost(i);
  const auto index = static_cast<std::uint64_t>(member.index()), count = static_cast<std::uint64_t>(member.count());
  const std::uint64_t begin = total * index / count, end = total * (index + 1) / count;
  std::uint64_t first = 0;  // where item i begins in the pool
  for (std::size_t i = 0; i < n_items && first < end; ++i) {
    const std::uint64_t unit_cost = cost(i), n_units = units(i);
    // A cut inside a unit moves to the unit's end, for the member on either side of it.
    const auto unit_at = [&](std::uint64_t place) {
      return place <= first ? 0 : std::min(n_units, (place - first + unit_cost - 1) / unit_cost);
    };
    const std::uint64_t unit_begin = unit_at(begin), unit_end = unit_at(end);
    if (unit_begin < unit_end) fn(i, static_cast<std::uint32_t>(unit_begin), static_cast<std::uint32_t>(unit_end));
    first += n_units * unit_cost;
  }
}

}  // namespace r1::rt
