// The ranks of a collective and how they are arranged.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "astra/base/types.h"

namespace astra {

// The ranks of one phase in the order of their logical ring: listed, or at equal strides.
struct LogicalRing {
  const Rank* list = nullptr;
  Rank first = 0;
  Rank stride = 1;

  Rank at(std::int32_t place) const { return list != nullptr ? list[place] : first + stride * place; }
};

struct Communicator {
  // A dimension of the network along which the ranks lie without gaps.
  struct Axis {
    std::uint32_t dimension = 0;
    Rank stride = 1;
    std::int32_t members = 1;
  };

  std::uint64_t id = 0;  // 0: all ranks of the network
  std::vector<Rank> ranks;
  bool is_whole = false;              // all ranks of the network, in its own order
  std::vector<Axis> axes;             // of a box of the network's grid, inner first; empty: `ranks` is one logical ring
  Time endpoint_delay_ns = 0;         // paid per preparation
  mutable Bytes largest_checked = 0;  // no smaller collective takes longer than time can count

  std::int32_t size() const { return static_cast<std::int32_t>(ranks.size()); }
  // Of a rank in `ranks`, or -1.
  std::int32_t place(Rank rank) const;

  std::vector<std::pair<Rank, std::int32_t>> places;  // by rank; empty when `is_whole`
};

}  // namespace astra
