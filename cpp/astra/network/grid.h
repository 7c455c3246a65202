// Ranks on a grid: how they are numbered, and which links lie between two of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "astra/base/types.h"

namespace astra {

enum class Topology : std::uint8_t { kRing, kFullyConnected, kSwitch };

// `name` is Ring, FullyConnected or Switch; raises std::invalid_argument on another.
Topology find_topology(const std::string& name);

// Links crossed within a dimension of `count` ranks, from one position to another.
std::int64_t hops(Topology topology, std::int64_t count, std::int64_t from, std::int64_t to);

// Coordinates of ranks; dimension 0 varies fastest.
class Grid {
 public:
  explicit Grid(std::vector<std::int64_t> counts);

  const std::vector<std::int64_t>& counts() const { return counts_; }
  std::int64_t size() const { return size_; }
  std::size_t dimensions() const { return counts_.size(); }
  std::int64_t stride(std::size_t dimension) const { return strides_[dimension]; }
  std::int64_t coordinate(Rank rank, std::size_t dimension) const {
    return rank / strides_[dimension] % counts_[dimension];
  }

 private:
  std::vector<std::int64_t> counts_;
  std::vector<std::int64_t> strides_;
  std::int64_t size_ = 1;
};

}  // namespace astra
