// Which memory a level is, and what it may say.
#include <cmath>
#include <set>

#include "astra/base/errors.h"
#include "astra/base/nearest.h"
#include "astra/base/truncate.h"
#include "astra/memory/custom_memory.h"
#include "astra/memory/device_memory.h"
#include "astra/memory/expansion_memory.h"
#include "astra/memory/flow_memory.h"

namespace astra {
namespace {

void check_rate(const std::string& prefix, const char* field, double bandwidth) {
  if (!(bandwidth >= 0) || !std::isfinite(bandwidth)) {
    refuse(prefix + field + " must be finite and not negative, not " + std::to_string(bandwidth));
  }
}

void check_count(const std::string& prefix, const char* field, std::int64_t value, std::int64_t least,
                 std::int64_t most) {
  if (value < least || value > most) {
    refuse(prefix + field + " must be between " + std::to_string(least) + " and " + std::to_string(most) + ", not " +
           std::to_string(value));
  }
}

void check_speed(const MemoryRate& speed, const std::string& prefix) {
  check_count(prefix, "latency_ns", speed.latency_ns, 0, static_cast<Time>(kLongest));
  check_rate(prefix, "bandwidth", speed.bandwidth);
  check_rate(prefix, "write bandwidth", speed.write_bandwidth);
}

void check_level(const MemoryLevel& level, const std::string& prefix) {
  check_speed({level.latency_ns, level.bandwidth, level.write_bandwidth}, prefix);
  check_count(prefix, "npus_per_node", level.npus_per_node, 1, kMostCount);
  check_count(prefix, "num_devices", level.num_devices, 1, 1 << 12);
  check_count(prefix, "pim_channels", level.pim_channels, 0, 1 << 12);
  check_count(prefix, "channels", level.channels, 1, 1 << 12);
  check_count(prefix, "capacity_bytes", level.capacity_bytes, 0, Bytes{1} << 60);
}

// What a level says must mean something.
void check_meaning(const MemoryLevel& level, const std::string& prefix) {
  const MemoryLevel unsaid;
  const auto only = [&prefix, &level](bool is_said, const char* field, const char* type) {
    if (is_said) {
      refuse(prefix + field + " is for " + type + ", not for " + level.type);
    }
  };
  const bool is_flow = level.type == "MEMORY_DEVICES" && level.discipline == "flow";
  only(!is_flow && !level.links.empty(), "links", "MEMORY_DEVICES of discipline flow");
  only(!is_flow && !(level.rank_links.empty() && level.device_links.empty()), "rank_links and device_links",
       "MEMORY_DEVICES of discipline flow");
  only(is_flow && level.pim_channels != 0, "pim_channels", "the disciplines fifo and shared");
  only(is_flow && !level.endpoints.empty(), "endpoints", "the disciplines fifo and shared");
  if (level.type == "MEMORY_DEVICES") {
    only(level.npus_per_node != unsaid.npus_per_node, "npus_per_node", "PER_NODE_MEMORY_EXPANSION");
    only(level.queues_per_device, "queues_per_device", "PER_NODE_MEMORY_EXPANSION and MEMORY_POOL");
    return;
  }
  only(level.discipline != unsaid.discipline, "discipline", "MEMORY_DEVICES");
  only(level.channels != unsaid.channels, "channels", "MEMORY_DEVICES");
  only(level.write_bandwidth != unsaid.write_bandwidth, "write bandwidth", "MEMORY_DEVICES");
  only(level.capacity_bytes != unsaid.capacity_bytes, "capacity_bytes", "MEMORY_DEVICES");
  only(!level.endpoints.empty(), "endpoints", "MEMORY_DEVICES");
  only(!level.rates.empty(), "rates", "MEMORY_DEVICES");
  only(!level.interleaves.empty(), "interleaves", "MEMORY_DEVICES");
}

// Lists of numbers below a count, as many lists as there shall be; a number stands in a list once.
void check_lists(const std::vector<std::vector<std::int32_t>>& lists, std::int64_t below, const std::string& name) {
  for (const std::vector<std::int32_t>& list : lists) {
    std::set<std::int32_t> seen;
    for (const std::int32_t number : list) {
      if (number < 0 || number >= below || !seen.insert(number).second) {
        refuse(name + " has " + std::to_string(number) + "; expected numbers below " + std::to_string(below) +
               ", each once");
      }
    }
  }
}

void check_links(const MemoryLevel& level, const std::string& prefix, const Network& network) {
  for (const MemoryLink& link : level.links) {
    check_speed({link.latency_ns, link.bandwidth, 0}, prefix + "links: ");
    if (link.bandwidth <= 0) {
      refuse(prefix + "links: bandwidth must be positive, not " + std::to_string(link.bandwidth));
    }
  }
  const auto links = static_cast<std::int64_t>(level.links.size());
  const auto one_each = [&](const auto& lists, std::int64_t count, const char* field) {
    if (static_cast<std::int64_t>(lists.size()) != count) {
      refuse(prefix + field + " must be " + std::to_string(count) + " lists of links, not " +
             std::to_string(lists.size()));
    }
    check_lists(lists, links, prefix + field);
  };
  one_each(level.rank_links, network.npus(), "rank_links");
  one_each(level.device_links, level.num_devices, "device_links");
}

void check_devices(const MemoryLevel& level, const std::string& prefix, const Network& network) {
  if (level.discipline != "fifo" && level.discipline != "shared" && level.discipline != "flow") {
    refuse(prefix + "discipline '" + level.discipline + "' is not one of fifo, flow, shared" +
           nearest(level.discipline, {"fifo", "flow", "shared"}));
  }
  if (level.discipline != "fifo" && level.channels != 1) {
    refuse(prefix + "channels is for discipline fifo: all accesses of a device share it as one");
  }
  if (!level.rates.empty() && static_cast<std::int64_t>(level.rates.size()) != level.num_devices) {
    refuse(prefix + "rates must be one per device (" + std::to_string(level.num_devices) + "), not " +
           std::to_string(level.rates.size()));
  }
  for (const MemoryRate& speed : level.rates) {
    check_speed(speed, prefix + "rates: ");
  }
  check_lists(level.interleaves, level.num_devices, prefix + "interleaves");
  for (const auto& devices : level.interleaves) {
    if (devices.empty()) {
      refuse(prefix + "interleaves has a set without devices");
    }
  }
  if (level.discipline == "flow") {
    check_links(level, prefix, network);
  }
  if (!level.endpoints.empty() && static_cast<std::int64_t>(level.endpoints.size()) != level.num_devices) {
    refuse(prefix + "endpoints must name one device of the network per memory device (" +
           std::to_string(level.num_devices) + "), not " + std::to_string(level.endpoints.size()));
  }
  for (const Rank endpoint : level.endpoints) {
    if (endpoint < 0 || endpoint >= network.endpoints()) {
      refuse(prefix + "endpoint " + std::to_string(endpoint) + " is not below " + std::to_string(network.endpoints()) +
             ", the ranks and endpoints of the network");
    }
  }
}

}  // namespace

std::unique_ptr<MemoryModel> make_memory(const MemoryLevel& level, const char* where, Network& network,
                                         EventQueue& events) {
  const std::string prefix = std::string("memory: ") + where + " ";
  if (level.service_ns != nullptr) {
    return std::make_unique<CustomMemory>(level, where, events);
  }
  check_level(level, prefix);
  if (level.type == "NO_MEMORY_EXPANSION") return nullptr;
  const bool is_expansion = level.type == "PER_NPU_MEMORY_EXPANSION" || level.type == "PER_NODE_MEMORY_EXPANSION" ||
                            level.type == "MEMORY_POOL";
  if (!is_expansion && level.type != "MEMORY_DEVICES") {
    refuse(prefix + "type '" + level.type +
           "' is not one of MEMORY_DEVICES, MEMORY_POOL, NO_MEMORY_EXPANSION, PER_NODE_MEMORY_EXPANSION, "
           "PER_NPU_MEMORY_EXPANSION");
  }
  check_meaning(level, prefix);
  if (is_expansion) {
    return std::make_unique<ExpansionMemory>(level, where, events);
  }
  check_devices(level, prefix, network);
  if (level.discipline == "flow") {
    return std::make_unique<FlowMemory>(level, where, events);
  }
  return std::make_unique<DeviceMemory>(level, where, network, events);
}

}  // namespace astra
