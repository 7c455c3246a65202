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
    : Topology(config.npus_count, 0), has_diagonals_(has_diagonals) {
  std::int64_t stride = 1;
  std::int64_t devices = npus();
  for (std::size_t d = 0; d < config.topology.size(); ++d) {
    const std::int64_t count = config.npus_count[d];
    const BuildingBlock block = find_building_block(config.topology[d]);
    dimensions_.push_back({block, count, stride, config.bandwidth[d], config.latency_ns[d], devices});
    stride *= count;
    devices += block == BuildingBlock::kSwitch ? npus() / count : 0;
  }
}

std::int64_t GridTopology::Dimension::hops(Rank from, Rank to) const {
  const std::int64_t a = coordinate(from);
  const std::int64_t b = coordinate(to);
  if (a == b) return 0;
  if (block == BuildingBlock::kFullyConnected) return 1;
  if (block == BuildingBlock::kSwitch) return 2;
  const std::int64_t clockwise = (b - a + count) % count;
  return std::min(clockwise, count - clockwise);
}

Path GridTopology::path(Rank from, Rank to) {
  Path path;
  for (const Dimension& dimension : dimensions_) {
    const std::int64_t crossed = dimension.hops(from, to);
    if (crossed == 0) {
      continue;
    }
    path.latency_ns += static_cast<double>(crossed) * dimension.latency_ns;
    path.bandwidth = std::min(path.bandwidth, dimension.bandwidth);
    if (has_diagonals_) {
      break;
    }
  }
  return path;
}

bool GridTopology::are_alike(Rank a, Rank b, Rank c, Rank d) {
  for (const Dimension& dimension : dimensions_) {
    const std::int64_t crossed = dimension.hops(a, b);
    if (crossed != dimension.hops(c, d)) {
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
  for (const Dimension& dimension : dimensions_) {
    cross(dimension, at, to, route);
  }
  check(at == to, "a route ends where it should");
  return route;
}

void GridTopology::cross(const Dimension& dimension, Rank& at, Rank to, std::vector<LinkIndex>& route) {
  const std::int64_t n = dimension.count;
  std::int64_t here = dimension.coordinate(at);
  const std::int64_t there = dimension.coordinate(to);
  const auto rank_at = [&](std::int64_t coordinate) {
    return static_cast<Rank>(at + (coordinate - dimension.coordinate(at)) * dimension.stride);
  };
  if (dimension.block == BuildingBlock::kRing) {
    const std::int64_t clockwise = (there - here + n) % n;
    const std::int64_t step = 2 * clockwise <= n ? 1 : n - 1;
    for (; here != there; here = (here + step) % n) {
      route.push_back(link(dimension, rank_at(here), rank_at((here + step) % n)));
    }
  } else if (dimension.block == BuildingBlock::kFullyConnected && here != there) {
    route.push_back(link(dimension, at, rank_at(there)));
  } else if (here != there) {
    const std::int64_t middle = dimension.switches + dimension.row(at);
    route.push_back(link(dimension, at, middle));
    route.push_back(link(dimension, middle, rank_at(there)));
  }
  at = rank_at(there);
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
