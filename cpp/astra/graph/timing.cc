// What can be said of a plan's nodes without running them.
#include <algorithm>
#include <string>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"
#include "astra/graph/plan.h"

namespace astra {

Time node_time(const PlanNode& node, const Services& services, const Time* durations, const Bytes* sizes) {
  switch (node.type) {
    case NodeType::kComp: {
      const Time duration = durations[node.source];
      return duration == 0 ? services.collectives->config().zero_duration_ns : duration;
    }
    case NodeType::kMemLoad:
    case NodeType::kMemStore:
      return services.memory(node.location)->service_time(access_of(node, 0, sizes));
    case NodeType::kColl: {
      if (node.communicator == nullptr) {
        const Time duration = durations[node.source];
        return duration == 0 ? services.collectives->config().zero_duration_ns : duration;
      }
      const CollectiveLibrary& library = *services.collectives;
      const Bytes size = sizes[node.source];
      return library.is_instant(*node.communicator, size)
                 ? 0
                 : library.symmetric_time(*node.communicator, node.collective, size);
    }
    default:
      return 0;
  }
}

MemoryAccess access_of(const PlanNode& node, Rank rank, const Bytes* sizes) {
  return {rank, node.device, node.channel, node.type == NodeType::kMemStore, sizes[node.source]};
}

void count_timed_memory(const Plan& plan, const Services& services, const Bytes* sizes) {
  for (const std::uint32_t i : plan.timed_memory) {
    const PlanNode& node = plan.nodes[i];
    const Lane& lane = plan.lanes[node.lane];
    services.memory(node.location)
        ->count_timed(access_of(node, lane.rank, sizes), static_cast<std::int64_t>(lane.members.size()));
  }
}

ChainTime chain_time(const Plan& plan, const Lane& lane, const Services& services, const Time* durations,
                     const Bytes* sizes) {
  ChainTime result;
  for (const std::uint32_t i : lane.chain) {
    const PlanNode& node = plan.nodes[i];
    const Time time = node_time(node, services, durations, sizes);
    result.total = checked_sum(result.total, time);
    result.compute += node.slot == Slot::kCompute ? time : 0;
  }
  return result;
}

namespace {

void check_start(const PlanNode& node, const Plan& plan, const Services& services, const Time* durations,
                 const Bytes* sizes) {
  const Rank rank = plan.lanes[node.lane].rank;
  const Bytes size = sizes[node.source];
  if (node.type == NodeType::kSend) {
    services.network->fixed_delay(rank, node.peer, size);
  } else if (node.type == NodeType::kColl && !node.is_timed) {
    services.collectives->check_times(*node.communicator, node.collective, size, rank);
  } else if (is_memory(node.type)) {
    const Time service = services.memory(node.location)->service_time(access_of(node, rank, sizes));
    checked_sum(service, node.type == NodeType::kPimComp ? durations[node.source] : 0);
  } else {
    node_time(node, services, durations, sizes);
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
    refuse("step " + std::to_string(step) + ", node " + std::to_string(node) + " '" + plan.names[node] + "': " + why);
  };
  if (const auto i = static_cast<std::size_t>(outside(durations, n)); i < n) {
    refuse_node(i, "duration_ns must be between 0 and 2^59, not " + std::to_string(durations[i]));
  }
  if (const auto i = static_cast<std::size_t>(outside(sizes, n)); i < n) {
    refuse_node(i, "size_bytes must be between 0 and 2^59, not " + std::to_string(sizes[i]));
  }
  const CollectiveLibrary& library = *services.collectives;
  for (const std::uint32_t i : plan.sized) {
    const PlanNode& node = plan.nodes[i];
    const Bytes size = sizes[node.source];
    if (node.type != NodeType::kColl && size == 0) {
      refuse_node(node.source, "a message needs at least one byte");
    }
    if (node.communicator != nullptr && !library.is_instant(*node.communicator, size)) {
      library.chunks(node.collective, size);
    }
  }
}

}  // namespace astra
