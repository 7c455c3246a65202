// The congestion-unaware analytical network: latency per link plus size over bandwidth, no sharing.
#pragma once

#include <vector>

#include "astra/network/grid.h"
#include "astra/network/network.h"

namespace astra {

class AnalyticalNetwork final : public Network {
 public:
  // The configuration is checked.
  AnalyticalNetwork(const NetworkConfig& config, EventQueue& events);

  std::int64_t npus() const override { return grid_.size(); }
  const std::vector<std::int64_t>& shape() const override { return grid_.counts(); }
  void send(Rank from, Rank to, Bytes bytes, Call arrived) override;
  std::optional<Time> fixed_delay(Rank from, Rank to, Bytes bytes) const override;
  Time lone_delay(Rank from, Rank to, Bytes bytes) const override { return delay(from, to, bytes); }
  bool are_alike(Rank a, Rank b, Rank c, Rank d) const override;

 private:
  struct Dimension {
    Topology topology;
    double bandwidth;
    double latency_ns;
  };
  // Links crossed per dimension decide a transfer's time.
  std::int64_t hops(std::size_t dimension, Rank from, Rank to) const;
  Time delay(Rank from, Rank to, Bytes bytes) const;

  EventQueue& events_;
  Grid grid_;
  std::vector<Dimension> dimensions_;
  bool charges_first_only_;  // ASTRA-sim charges only the lowest dimension in which the two differ
};

}  // namespace astra
