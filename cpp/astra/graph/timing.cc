// What can be said of a plan's nodes without running them.
#include <algorithm>
#include <string>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"
#include "astra/graph/plan.h"

namespace astra {

namespace {

Time recorded(Time duration, const SystemConfig& config) { return duration == 0 ? config.zero_duration_ns : duration; }

// Attainable performance is the lesser of the peak and bandwidth times operational intensity (Williams et al.,
// Roofline, CACM 52(4), 2009); order of operations as in ASTRA-sim.
Time roofline(const PlanNode& node, const SystemConfig& config, Bytes size) {
  if (size == 0 || node.num_ops == 0) {
    return 0;
  }
  const auto ops = static_cast<double>(node.num_ops);
  const double performance = std::min(config.local_mem_bandwidth * (ops / static_cast<double>(size)), config.peak_perf);
  return truncate(ops / performance * 1e9);
}

}  // namespace

bool is_instant(const PlanNode& node, const SystemConfig& config, const Time* durations, const Bytes* sizes) {
  if (!config.parity || config.replay_only) {
    return false;
  }
  if (node.type == NodeType::kInvalid) {
    return true;
  }
  if (config.is_fork()) {
    return node.type == NodeType::kComp && durations[node.source] == 0 && node.num_ops == 0;
  }
  return config.roofline_enabled && node.slot == Slot::kCompute && sizes[node.source] == 0;
}

bool is_compute(const PlanNode& node, const SystemConfig& config) {
  return node.slot == Slot::kCompute || (config.replay_only && node.slot != Slot::kCpu);
}

Waits waits_for(const PlanNode& node, const SystemConfig& config) {
  if (is_compute(node, config)) return Waits::kCompute;
  switch (node.type) {
    case NodeType::kColl:
    case NodeType::kSend:
    case NodeType::kRecv:
      return Waits::kMessages;
    case NodeType::kPimComp:
      return Waits::kOffload;
    case NodeType::kMemLoad:
    case NodeType::kMemStore:
      return Waits::kAccess;
    default:
      return Waits::kNothing;
  }
}

Time node_time(const PlanNode& node, const Services& services, const Time* durations, const Bytes* sizes) {
  const SystemConfig& config = services.collectives->config();
  const Time duration = durations[node.source];
  const Bytes size = sizes[node.source];
  if (config.replay_only) {
    return recorded(duration, config);
  }
  switch (node.type) {
    case NodeType::kComp:
      if (is_instant(node, config, durations, sizes)) return 0;
      return config.roofline_enabled && node.slot == Slot::kCompute ? roofline(node, config, size)
                                                                    : recorded(duration, config);
    case NodeType::kMemLoad:
    case NodeType::kMemStore:
      return services.memory(node.location)->service_time(node.access(0, size));
    case NodeType::kColl:
      return node.communicator == nullptr ? recorded(duration, config) : services.symmetric->time(node.request(size));
    default:
      return 0;
  }
}

void count_timed_memory(const Plan& plan, const Services& services, const Bytes* sizes) {
  for (const std::uint32_t i : plan.timed_memory) {
    const PlanNode& node = plan.nodes[i];
    const Lane& lane = plan.lanes[node.lane];
    services.memory(node.location)
        ->count_timed(node.access(lane.rank, sizes[node.source]), static_cast<std::int64_t>(lane.members.size()));
  }
}

ChainTime chain_time(const Plan& plan, const Lane& lane, const Services& services, const Time* durations,
                     const Bytes* sizes) {
  ChainTime result;
  for (const std::uint32_t i : lane.chain) {
    const PlanNode& node = plan.nodes[i];
    const Time time = node_time(node, services, durations, sizes);
    result.total = checked_sum(result.total, time);
    const Waits what = waits_for(node, services.collectives->config());
    result.compute += what == Waits::kCompute ? time : 0;
    result.spent.add(what, time);
  }
  return result;
}

namespace {

void check_start(const PlanNode& node, const Plan& plan, const Services& services, const Time* durations,
                 const Bytes* sizes) {
  const Rank rank = plan.lanes[node.lane].rank;
  const Bytes size = sizes[node.source];
  if (node.is_timed) {
    node_time(node, services, durations, sizes);
  } else if (node.type == NodeType::kSend) {
    services.network->lone_delay(rank, node.peer, size);
  } else if (is_memory(node.type)) {
    const Time service = services.memory(node.location)->service_time(node.access(rank, size));
    checked_sum(service, node.type == NodeType::kPimComp ? durations[node.source] : 0);
  }
}

}  // namespace

void check_times(const Plan& plan, const Services& services, const Time* durations, const Bytes* sizes) {
  for (const Lane& lane : plan.lanes) {
    if (!lane.chain.empty()) {
      chain_time(plan, lane, services, durations, sizes);
      continue;
    }
    for (std::uint32_t node = lane.first; node < lane.last; ++node) {
      check_start(plan.nodes[node], plan, services, durations, sizes);
    }
  }
}

void check_values(const Plan& plan, const Services& services, const Time* durations, const Bytes* sizes,
                  std::size_t step) {
  constexpr std::int64_t kMost = std::int64_t{1} << 59;
  const auto outside = [](const auto* values, std::size_t n) {
    return std::find_if(values, values + n, [](std::int64_t value) { return value < 0 || value > kMost; }) - values;
  };
  const std::size_t n = plan.names.size();
  const auto refuse_node = [&](std::size_t node, const std::string& why) {
    refuse("step " + std::to_string(step) + ", node " + std::to_string(node) + " '" + printable(plan.names[node]) +
           "': " + why);
  };
  if (const auto i = static_cast<std::size_t>(outside(durations, n)); i < n) {
    refuse_node(i, "duration_ns must be between 0 and 2^59, not " + std::to_string(durations[i]));
  }
  if (const auto i = static_cast<std::size_t>(outside(sizes, n)); i < n) {
    refuse_node(i, "size_bytes must be between 0 and 2^59, not " + std::to_string(sizes[i]));
  }
  const CollectiveLibrary& library = *services.collectives;
  if (library.config().replay_only) {
    return;
  }
  for (const std::uint32_t i : plan.sized) {
    const PlanNode& node = plan.nodes[i];
    const Bytes size = sizes[node.source];
    if (node.type != NodeType::kColl && size == 0) {
      refuse_node(node.source, "a message needs at least one byte");
    }
    if (node.communicator != nullptr) {
      library.check_size(node.request(size));
    }
  }
}

}  // namespace astra
