#include <cmath>
#include <string>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"
#include "astra/network/analytical_network.h"

namespace astra {
namespace {

void check_shape(const NetworkConfig& config) {
  std::int64_t npus = 1;
  for (const std::int64_t count : config.npus_count) {
    if (count < 1 || count > kMostCount) {
      refuse("network: npus_count must be between 1 and 2^24, not " + std::to_string(count));
    }
    npus *= count;
    if (npus > kMostCount) {
      refuse("network: it has more than 2^24 ranks");
    }
  }
}

void check_grid(const NetworkConfig& config) {
  const std::size_t dims = config.topology.size();
  if (dims == 0 || config.npus_count.size() != dims || config.bandwidth.size() != dims ||
      config.latency_ns.size() != dims) {
    refuse("network: topology, npus_count, bandwidth and latency_ns must be lists of one equal, non-zero length");
  }
  if (dims > 32) {
    refuse("network: it has " + std::to_string(dims) + " dimensions; at most 32 are possible");
  }
  for (std::size_t d = 0; d < dims; ++d) {
    if (!(config.bandwidth[d] > 0) || !std::isfinite(config.bandwidth[d])) {
      refuse("network: bandwidth must be positive, not " + std::to_string(config.bandwidth[d]));
    }
    if (!(config.latency_ns[d] >= 0) || !std::isfinite(config.latency_ns[d])) {
      refuse("network: latency must not be negative, not " + std::to_string(config.latency_ns[d]));
    }
  }
}

}  // namespace

std::unique_ptr<Network> make_network(const NetworkConfig& config, EventQueue& events) {
  check_shape(config);
  check_grid(config);
  if (config.model != "unaware") {
    refuse("network: model '" + config.model + "' is not one of unaware");
  }
  return std::make_unique<AnalyticalNetwork>(config, events);
}

}  // namespace astra
