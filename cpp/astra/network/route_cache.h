// Routes that have been found, by pair of devices.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "astra/base/flat_map.h"
#include "astra/base/types.h"

namespace astra {

using LinkIndex = std::uint32_t;

// Every message looks its route up. Routes lie in flat storage and stay where they are.
class RouteCache {
 public:
  // Empty if the pair's route is not known.
  std::span<const LinkIndex> find(Rank from, Rank to);
  // Keeps the route of a pair that has none.
  std::span<const LinkIndex> keep(Rank from, Rank to, const std::vector<LinkIndex>& links);

 private:
  struct Hash {
    std::size_t operator()(std::uint64_t pair) const { return static_cast<std::size_t>(mix(pair)); }
  };

  FlatMap<std::uint64_t, std::span<const LinkIndex>, Hash> routes_;
  std::deque<std::vector<LinkIndex>> storage_;
};

}  // namespace astra
