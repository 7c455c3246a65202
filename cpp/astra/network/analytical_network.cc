#include "astra/network/analytical_network.h"

#include <cmath>
#include <string>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"

namespace astra {
namespace {

void check_config(const NetworkConfig& config) {
  const std::size_t dims = config.topology.size();
  if (dims == 0 || config.npus_count.size() != dims || config.bandwidth.size() != dims ||
      config.latency_ns.size() != dims) {
    refuse("network: topology, npus_count, bandwidth and latency_ns must be lists of one equal, non-zero length");
  }
  if (dims > 1) {
    refuse("network: " + std::to_string(dims) + " dimensions are not supported by this network model; give one");
  }
  if (config.npus_count[0] < 1 || config.npus_count[0] > kMostCount) {
    refuse("network: npus_count must be between 1 and 2^24, not " + std::to_string(config.npus_count[0]));
  }
  if (!(config.bandwidth[0] > 0) || !std::isfinite(config.bandwidth[0])) {
    refuse("network: bandwidth must be positive, not " + std::to_string(config.bandwidth[0]));
  }
  if (!(config.latency_ns[0] >= 0) || !std::isfinite(config.latency_ns[0])) {
    refuse("network: latency must not be negative, not " + std::to_string(config.latency_ns[0]));
  }
}

}  // namespace

AnalyticalNetwork::AnalyticalNetwork(const NetworkConfig& config, EventQueue& events)
    : events_(events),
      npus_(config.npus_count[0]),
      bandwidth_(config.bandwidth[0]),
      latency_ns_(config.latency_ns[0]),
      topology_(make_topology(config.topology[0], npus_)) {}

Time AnalyticalNetwork::delay(Rank from, Rank to, Bytes bytes) const {
  const auto hops = static_cast<double>(topology_->hops(from, to));
  return truncate(hops * latency_ns_ + static_cast<double>(bytes) / bandwidth_);
}

void AnalyticalNetwork::send(Rank from, Rank to, Bytes bytes, Call arrived) {
  events_.schedule(delay(from, to, bytes), arrived);
}

std::optional<Time> AnalyticalNetwork::fixed_delay(Rank from, Rank to, Bytes bytes) const {
  return delay(from, to, bytes);
}

bool AnalyticalNetwork::are_alike(Rank a, Rank b, Rank c, Rank d) const {
  return topology_->hops(a, b) == topology_->hops(c, d);
}

std::unique_ptr<Network> make_network(const NetworkConfig& config, EventQueue& events) {
  check_config(config);
  return std::make_unique<AnalyticalNetwork>(config, events);
}

}  // namespace astra
