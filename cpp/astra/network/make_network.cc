#include <cmath>
#include <string>

#include "astra/base/errors.h"
#include "astra/base/nearest.h"
#include "astra/base/truncate.h"
#include "astra/network/analytical_network.h"
#include "astra/network/fabric_topology.h"
#include "astra/network/flow_network.h"
#include "astra/network/grid_topology.h"
#include "astra/network/queueing_network.h"

namespace astra {
namespace {

constexpr std::size_t kMostDimensions = 32;

// Returns the number of ranks.
std::int64_t check_shape(const NetworkConfig& config) {
  if (config.npus_count.empty()) {
    refuse("network: npus_count is empty; it needs the number of ranks along each dimension");
  }
  if (config.npus_count.size() > kMostDimensions) {
    refuse("network: it has " + std::to_string(config.npus_count.size()) + " dimensions; at most " +
           std::to_string(kMostDimensions) + " are possible");
  }
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
  return npus;
}

void check_speed(const std::string& of, double bandwidth, double latency_ns) {
  if (!(bandwidth > 0) || !std::isfinite(bandwidth)) {
    refuse("network: " + of + "bandwidth must be positive, not " + std::to_string(bandwidth));
  }
  if (!(latency_ns >= 0) || !std::isfinite(latency_ns)) {
    refuse("network: " + of + "latency must not be negative, not " + std::to_string(latency_ns));
  }
}

void check_grid(const NetworkConfig& config) {
  const std::size_t dims = config.npus_count.size();
  if (config.topology.size() != dims || config.bandwidth.size() != dims || config.latency_ns.size() != dims) {
    refuse("network: topology, npus_count, bandwidth and latency_ns must be lists of one equal length, not " +
           std::to_string(config.topology.size()) + ", " + std::to_string(dims) + ", " +
           std::to_string(config.bandwidth.size()) + " and " + std::to_string(config.latency_ns.size()) +
           "; only a fabric with links needs none but npus_count");
  }
  for (std::size_t d = 0; d < dims; ++d) {
    check_speed("", config.bandwidth[d], config.latency_ns[d]);
  }
}

void check_link(const Link& link, std::size_t index, std::int64_t devices) {
  const std::string name = "link " + std::to_string(index);
  for (const std::int32_t device : {link.from, link.to}) {
    if (device < 0 || device >= devices) {
      refuse("network: " + name + " names device " + std::to_string(device) +
             "; ranks, endpoints and switches are 0 to " + std::to_string(devices - 1));
    }
  }
  if (link.from == link.to) {
    refuse("network: " + name + " leads from device " + std::to_string(link.from) + " to itself");
  }
  check_speed("of " + name + ", ", link.bandwidth, link.latency_ns);
}

bool has_fabric(const NetworkConfig& config) {
  const Fabric& fabric = config.fabric;
  return !fabric.links.empty() || fabric.endpoints != 0 || fabric.switches != 0 || fabric.route;
}

void check_fabric(const NetworkConfig& config, std::int64_t npus) {
  const Fabric& fabric = config.fabric;
  if (!config.topology.empty() || !config.bandwidth.empty() || !config.latency_ns.empty()) {
    refuse("network: a fabric's links replace topology, bandwidth and latency_ns, which must be empty");
  }
  for (const std::int64_t count : {fabric.endpoints, fabric.switches}) {
    if (count < 0 || count > kMostCount) {
      refuse("network: a fabric's endpoints and switches must be between 0 and 2^24, not " + std::to_string(count));
    }
  }
  if (fabric.links.empty()) {
    refuse("network: the fabric has no link");
  }
  const std::int64_t devices = npus + fabric.endpoints + fabric.switches;
  for (std::size_t i = 0; i < fabric.links.size(); ++i) {
    check_link(fabric.links[i], i, devices);
  }
}

// Where ASTRA-sim's congestion-aware binary gives up.
void check_aware_parity(const NetworkConfig& config) {
  if (config.topology.size() > 1) {
    refuse("network: ASTRA-sim's congestion-aware binary exits on more than one dimension, and this network has " +
           std::to_string(config.topology.size()));
  }
  if (!config.topology.empty() && config.topology[0] == "Ring" && config.npus_count[0] == 2) {
    refuse("network: ASTRA-sim's congestion-aware binary aborts on a Ring of 2 ranks");
  }
}

std::unique_ptr<Topology> make_topology(const NetworkConfig& config) {
  const std::int64_t npus = check_shape(config);
  if (has_fabric(config)) {
    check_fabric(config, npus);
    return std::make_unique<FabricTopology>(config);
  }
  check_grid(config);
  return std::make_unique<GridTopology>(config, config.parity && config.model == "unaware");
}

}  // namespace

std::unique_ptr<Network> make_network(const NetworkConfig& config, EventQueue& events) {
  std::unique_ptr<Topology> topology = make_topology(config);
  if (config.model == "unaware") {
    return std::make_unique<AnalyticalNetwork>(std::move(topology), events);
  }
  if (config.model == "aware") {
    if (config.parity) {
      check_aware_parity(config);
    }
    return std::make_unique<QueueingNetwork>(std::move(topology), events, config.refuses_time_zero);
  }
  if (config.model == "flow") {
    if (config.parity) {
      refuse("network: model 'flow' is none of ASTRA-sim's, whose oddities parity keeps; aware and unaware are");
    }
    return std::make_unique<FlowNetwork>(std::move(topology), events);
  }
  refuse("network: model '" + config.model + "' is not one of aware, flow, unaware" +
         nearest(config.model, {"aware", "flow", "unaware"}));
}

}  // namespace astra
