#include "astra/network/grid.h"

#include <algorithm>
#include <utility>

#include "astra/base/errors.h"

namespace astra {

Topology find_topology(const std::string& name) {
  if (name == "Ring") return Topology::kRing;
  if (name == "FullyConnected") return Topology::kFullyConnected;
  if (name == "Switch") return Topology::kSwitch;
  refuse("network topology '" + name + "' is not one of FullyConnected, Ring, Switch");
}

std::int64_t hops(Topology topology, std::int64_t count, std::int64_t from, std::int64_t to) {
  switch (topology) {
    case Topology::kFullyConnected:
      return 1;
    case Topology::kSwitch:
      return 2;
    default: {
      const std::int64_t clockwise = (to - from + count) % count;
      return std::min(clockwise, count - clockwise);
    }
  }
}

Grid::Grid(std::vector<std::int64_t> counts) : counts_(std::move(counts)) {
  for (const std::int64_t count : counts_) {
    strides_.push_back(size_);
    size_ *= count;
  }
}

}  // namespace astra
