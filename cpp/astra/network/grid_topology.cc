#include "astra/network/grid_topology.h"

#include <algorithm>

#include "astra/base/errors.h"
#include "astra/base/nearest.h"

namespace astra {

BuildingBlock find_building_block(const std::string& name) {
  if (name == "Ring") return BuildingBlock::kRing;
  if (name == "FullyConnected") return BuildingBlock::kFullyConnected;
  if (name == "Switch") return BuildingBlock::kSwitch;
  refuse("network: topology '" + name + "' is not one of FullyConnected, Ring, Switch" +
         nearest(name, {"FullyConnected", "Ring", "Switch"}));
}

GridTopology::GridTopology(const NetworkConfig& config, bool has_diagonals)
    : Topology(config.npus_count, 0), grid_(config.npus_count), has_diagonals_(has_diagonals) {
  std::int64_t devices = npus();
  for (std::size_t d = 0; d < grid_.dimensions(); ++d) {
    const BuildingBlock block = find_building_block(config.topology[d]);
    dimensions_.push_back({block, config.bandwidth[d], config.latency_ns[d], devices});
    devices += block == BuildingBlock::kSwitch ? npus() / grid_.counts()[d] : 0;
  }
}

std::int64_t GridTopology::hops(std::size_t d, Rank from, Rank to) const {
  const std::int64_t a = grid_.coordinate(from, d);
  const std::int64_t b = grid_.coordinate(to, d);
  if (a == b) return 0;
  if (dimensions_[d].block == BuildingBlock::kFullyConnected) return 1;
  if (dimensions_[d].block == BuildingBlock::kSwitch) return 2;
  const std::int64_t clockwise = a < b ? b - a : b - a + grid_.counts()[d];
  return std::min(clockwise, grid_.counts()[d] - clockwise);
}

std::int64_t GridTopology::row(std::size_t d, Rank rank) const {
  const std::int64_t inner = grid_.stride(d);
  return rank / (inner * grid_.counts()[d]) * inner + rank % inner;
}

Path GridTopology::path(Rank from, Rank to) {
  Path path;
  for (std::size_t d = 0; d < dimensions_.size(); ++d) {
    const std::int64_t crossed = hops(d, from, to);
    if (crossed == 0) {
      continue;
    }
    path.latency_ns += static_cast<double>(crossed) * dimensions_[d].latency_ns;
    path.bandwidth = std::min(path.bandwidth, dimensions_[d].bandwidth);
    if (has_diagonals_) {
      break;
    }
  }
  return path;
}

bool GridTopology::are_alike(Rank a, Rank b, Rank c, Rank d) {
  for (std::size_t i = 0; i < dimensions_.size(); ++i) {
    const std::int64_t crossed = hops(i, a, b);
    if (crossed != hops(i, c, d)) {
      return false;
    }
    if (crossed != 0 && has_diagonals_) {
      return true;
    }
  }
  return true;
}

std::vector<LinkIndex> GridTopology::find_route(Rank from, Rank to) {
  std::vector<LinkIndex> route;
  Rank at = from;
  for (std::size_t d = 0; d < dimensions_.size(); ++d) {
    at = cross(d, at, to, route);
  }
  check(at == to, "a route ends where it should");
  return route;
}

Rank GridTopology::cross(std::size_t d, Rank at, Rank to, std::vector<LinkIndex>& route) {
  const Dimension& dimension = dimensions_[d];
  const std::int64_t n = grid_.counts()[d];
  const std::int64_t there = grid_.coordinate(to, d);
  const std::int64_t here = grid_.coordinate(at, d);
  const auto rank_at = [&](std::int64_t place) { return static_cast<Rank>(at + (place - here) * grid_.stride(d)); };
  if (here == there) {
    return at;
  }
  if (dimension.block == BuildingBlock::kRing) {
    const std::int64_t step = 2 * ((there - here + n) % n) <= n ? 1 : n - 1;
    for (std::int64_t place = here; place != there; place = (place + step) % n) {
      route.push_back(link(dimension, rank_at(place), rank_at((place + step) % n)));
    }
  } else if (dimension.block == BuildingBlock::kFullyConnected) {
    route.push_back(link(dimension, at, rank_at(there)));
  } else {
    const std::int64_t middle = dimension.switches + row(d, at);
    route.push_back(link(dimension, at, middle));
    route.push_back(link(dimension, middle, rank_at(there)));
  }
  return rank_at(there);
}

LinkIndex GridTopology::link(const Dimension& dimension, std::int64_t from, std::int64_t to) {
  const std::uint64_t key = (static_cast<std::uint64_t>(from) << 32) | static_cast<std::uint64_t>(to);
  const auto [entry, is_new] = numbers_.try_emplace(key, LinkIndex{0});
  if (is_new) {
    entry->second = add_link(
        {static_cast<std::int32_t>(from), static_cast<std::int32_t>(to), dimension.bandwidth, dimension.latency_ns});
  }
  return entry->second;
}

}  // namespace astra
