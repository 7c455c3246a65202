// The congestion-unaware analytical network: latency per link plus size over bandwidth, no sharing.
#pragma once

#include <memory>

#include "astra/network/network.h"
#include "astra/network/topology.h"

namespace astra {

class AnalyticalNetwork final : public Network {
 public:
  AnalyticalNetwork(const NetworkConfig& config, EventQueue& events);

  std::int64_t npus() const override { return npus_; }
  void send(Rank from, Rank to, Bytes bytes, Call arrived) override;
  std::optional<Time> fixed_delay(Rank from, Rank to, Bytes bytes) const override;
  bool are_alike(Rank a, Rank b, Rank c, Rank d) const override;

 private:
  Time delay(Rank from, Rank to, Bytes bytes) const;

  EventQueue& events_;
  std::int64_t npus_;
  double bandwidth_;
  double latency_ns_;
  std::unique_ptr<Topology> topology_;
};

}  // namespace astra
