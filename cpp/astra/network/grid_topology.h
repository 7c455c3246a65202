// A grid of ranks, each of whose dimensions is a ring, a full mesh or a switch per row, as in ASTRA-sim.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "astra/network/grid.h"
#include "astra/network/topology.h"

namespace astra {

enum class BuildingBlock : std::uint8_t { kRing, kFullyConnected, kSwitch };

// `name` is Ring, FullyConnected or Switch; raises std::invalid_argument on another.
BuildingBlock find_building_block(const std::string& name);

// Messages cross the dimensions in order, the innermost first; on a ring they go the shorter way, clockwise on ties.
class GridTopology final : public Topology {
 public:
  // The configuration is checked. `has_diagonals`: paths are charged for the innermost dimension in which the two ranks
  // differ and for no other, as ASTRA-sim does without congestion.
  GridTopology(const NetworkConfig& config, bool has_diagonals);

  Path path(Rank from, Rank to) override;
  bool are_alike(Rank a, Rank b, Rank c, Rank d) override;

 private:
  struct Dimension {
    BuildingBlock block;
    double bandwidth;
    double latency_ns;
    std::int64_t switches;  // the device that is its first row's switch
  };

  std::int64_t hops(std::size_t d, Rank from, Rank to) const;
  // Ranks that differ only in their coordinate along `d` have one row.
  std::int64_t row(std::size_t d, Rank rank) const;
  std::vector<LinkIndex> find_route(Rank from, Rank to) override;
  // Extends the route to the rank beside `at` that has the coordinate of `to`, and returns that rank.
  Rank cross(std::size_t d, Rank at, Rank to, std::vector<LinkIndex>& route);
  LinkIndex link(const Dimension& dimension, std::int64_t from, std::int64_t to);

  Grid grid_;
  std::vector<Dimension> dimensions_;
  bool has_diagonals_;
  std::unordered_map<std::uint64_t, LinkIndex> numbers_;  // of links, by their two devices
};

}  // namespace astra
