// A network of arbitrary links.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "astra/network/topology.h"

namespace astra {

class FabricTopology final : public Topology {
 public:
  // The configuration is checked.
  explicit FabricTopology(const NetworkConfig& config);

 private:
  static constexpr std::int32_t kUnreachable = -1;

  std::vector<LinkIndex> find_route(Rank from, Rank to) override;
  std::vector<LinkIndex> shortest_route(Rank from, Rank to);
  std::vector<LinkIndex> asked_route(Rank from, Rank to) const;
  // Links from each device to `to`, by breadth-first search.
  const std::vector<std::int32_t>& distances(Rank to);
  // "rank 3", "endpoint 0 (device 8)", "switch 1 (device 9)".
  std::string name(std::int32_t device) const;

  decltype(Fabric::route) ask_;
  std::int64_t devices_;
  // Links that leave, and links that enter, each device: those of device i are [offsets[i], offsets[i + 1]).
  std::vector<LinkIndex> leaving_;
  std::vector<std::size_t> leaving_offsets_;
  std::vector<LinkIndex> entering_;
  std::vector<std::size_t> entering_offsets_;
  std::unordered_map<Rank, std::vector<std::int32_t>> distances_;
};

}  // namespace astra
