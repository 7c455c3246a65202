// The congestion-unaware analytical network: latency per link plus size over bandwidth, no sharing.
#pragma once

#include <memory>

#include "astra/network/routed_network.h"

namespace astra {

class AnalyticalNetwork final : public RoutedNetwork {
 public:
  AnalyticalNetwork(std::unique_ptr<Topology> topology, EventQueue& events);

  using Network::send;
  void send(Rank from, Rank to, Bytes bytes, Call arrived, Channel) override;
  std::optional<Time> fixed_delay(Rank from, Rank to, Bytes bytes) const override;
  Time lone_delay(Rank from, Rank to, Bytes bytes) const override;
  bool are_alike(Rank a, Rank b, Rank c, Rank d) const override;
};

}  // namespace astra
