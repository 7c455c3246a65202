// Routes that have been found, by pair of devices.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "astra/base/types.h"

namespace astra {

using LinkIndex = std::uint32_t;

// An open-addressing table over flat storage: every message looks its route up. Routes stay where they are.
class RouteCache {
 public:
  RouteCache();

  // Empty if the pair's route is not known.
  std::span<const LinkIndex> find(Rank from, Rank to) const;
  // Keeps a route, which must not be empty, of a pair that has none.
  std::span<const LinkIndex> keep(Rank from, Rank to, const std::vector<LinkIndex>& links);

 private:
  struct Entry {
    std::uint64_t pair = 0;
    std::span<const LinkIndex> links;  // none: the place is free
  };

  // The place of a pair, or the free one where it belongs.
  std::size_t place(std::uint64_t pair) const;
  void grow();

  std::vector<Entry> table_;
  std::size_t used_ = 0;
  std::deque<std::vector<LinkIndex>> storage_;
};

}  // namespace astra
