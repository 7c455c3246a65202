#include "astra/network/analytical_network.h"

#include <algorithm>

#include "astra/base/truncate.h"

namespace astra {

AnalyticalNetwork::AnalyticalNetwork(const NetworkConfig& config, EventQueue& events)
    : events_(events), grid_(config.npus_count), charges_first_only_(config.parity) {
  for (std::size_t d = 0; d < config.topology.size(); ++d) {
    dimensions_.push_back({find_topology(config.topology[d]), config.bandwidth[d], config.latency_ns[d]});
  }
}

std::int64_t AnalyticalNetwork::hops(std::size_t dimension, Rank from, Rank to) const {
  const std::int64_t a = grid_.coordinate(from, dimension);
  const std::int64_t b = grid_.coordinate(to, dimension);
  return a == b ? 0 : astra::hops(dimensions_[dimension].topology, grid_.counts()[dimension], a, b);
}

// Latencies of all links crossed, and the size over the narrowest of them.
Time AnalyticalNetwork::delay(Rank from, Rank to, Bytes bytes) const {
  double latency = 0;
  double bandwidth = 0;
  for (std::size_t d = 0; d < dimensions_.size(); ++d) {
    const std::int64_t crossed = hops(d, from, to);
    if (crossed == 0) {
      continue;
    }
    latency += static_cast<double>(crossed) * dimensions_[d].latency_ns;
    bandwidth = bandwidth == 0 ? dimensions_[d].bandwidth : std::min(bandwidth, dimensions_[d].bandwidth);
    if (charges_first_only_) {
      break;
    }
  }
  return bandwidth == 0 ? 0 : truncate(latency + static_cast<double>(bytes) / bandwidth);
}

void AnalyticalNetwork::send(Rank from, Rank to, Bytes bytes, Call arrived) {
  events_.schedule(delay(from, to, bytes), arrived);
}

std::optional<Time> AnalyticalNetwork::fixed_delay(Rank from, Rank to, Bytes bytes) const {
  return delay(from, to, bytes);
}

bool AnalyticalNetwork::are_alike(Rank a, Rank b, Rank c, Rank d) const {
  for (std::size_t i = 0; i < dimensions_.size(); ++i) {
    const std::int64_t first = hops(i, a, b);
    if (first != hops(i, c, d)) {
      return false;
    }
    if (first != 0 && charges_first_only_) {
      return true;
    }
  }
  return true;
}

}  // namespace astra
