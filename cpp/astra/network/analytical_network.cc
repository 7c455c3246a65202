#include "astra/network/analytical_network.h"

#include <utility>

#include "astra/base/truncate.h"

namespace astra {

AnalyticalNetwork::AnalyticalNetwork(std::unique_ptr<Topology> topology, EventQueue& events)
    : RoutedNetwork(std::move(topology), events) {}

Time AnalyticalNetwork::lone_delay(Rank from, Rank to, Bytes bytes) const {
  const Path path = topology().path(from, to);
  return truncate(path.latency_ns + static_cast<double>(bytes) / path.bandwidth);
}

void AnalyticalNetwork::send(Rank from, Rank to, Bytes bytes, Call arrived, Channel) {
  events().schedule(lone_delay(from, to, bytes), arrived);
}

std::optional<Time> AnalyticalNetwork::fixed_delay(Rank from, Rank to, Bytes bytes) const {
  return lone_delay(from, to, bytes);
}

bool AnalyticalNetwork::are_alike(Rank a, Rank b, Rank c, Rank d) const { return topology().are_alike(a, b, c, d); }

}  // namespace astra
