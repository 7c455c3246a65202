// A registered graph, ready to run: one lane per simulated rank, dependencies turned round, times that need no event.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "astra/collective/communicator.h"
#include "astra/graph/services.h"
#include "astra/graph/spec.h"

namespace astra {

// What a node occupies while it runs. A rank has one of each, but any number of receives.
enum class Slot : std::uint8_t { kCpu = 0, kCompute = 1, kComm = 2, kFree = 3 };
constexpr std::size_t kSlots = 4;

struct PlanNode {
  NodeType type = NodeType::kInvalid;
  Slot slot = Slot::kComm;
  CollectiveType collective = CollectiveType::kAllReduce;
  MemoryLocation location = MemoryLocation::kRemote;
  bool is_timed = false;  // how long it takes is known at its start, see node_time
  std::uint32_t lane = 0;
  std::uint32_t source = 0;  // index in the graph that was registered
  Rank peer = -1;
  std::int32_t tag = 0;
  const Communicator* communicator = nullptr;  // of collectives that move data
  std::uint32_t involved_dims = kAllDimensions;
  std::int32_t priority = 0;
  std::int32_t program = -1;
  std::int64_t num_ops = 0;
  std::int32_t device = 0;
  std::int32_t channel = 0;

  CollectiveRequest request(Bytes size) const {
    return {communicator, collective, involved_dims, size, priority, program};
  }
  // Whether it begins to fill buffer `tag` and ends at once.
  bool is_ahead() const { return type == NodeType::kMemLoad && tag > 0; }
  // Whether it waits until buffer `-tag` is full.
  bool is_awaited() const { return type == NodeType::kMemLoad && tag < 0; }
  MemoryAccess access(Rank rank, Bytes size) const {
    return {rank, device, channel, type == NodeType::kMemStore, size};
  }
};

struct Lane {
  Rank rank = 0;              // the rank that is simulated
  std::vector<Rank> members;  // the ranks it stands for
  std::uint32_t first = 0;    // its nodes are [first, last), in ascending order of id
  std::uint32_t last = 0;
  std::vector<std::uint32_t> roots;  // nodes without dependency, ascending
  // The only order in which its nodes can run, if there is one and all are timed; else empty.
  std::vector<std::uint32_t> chain;
};

struct Plan {
  std::vector<Lane> lanes;  // ascending by rank
  std::vector<PlanNode> nodes;
  std::vector<std::uint32_t> child_offsets;
  std::vector<std::uint32_t> children;
  std::vector<std::uint32_t> waits;  // dependencies per node
  std::vector<std::string> names;    // of the registered graph, as are the next two
  std::vector<Time> durations;
  std::vector<Bytes> sizes;
  std::vector<std::uint32_t> sized;         // nodes whose size decides whether they can run at all
  std::vector<std::uint32_t> timed_memory;  // timed nodes that load or store
  std::deque<Communicator> communicators;
  bool is_timed = false;  // every lane is a chain: no event is needed within a step
};

// Checks a graph and lowers it. Lanes stand for whole rank classes where members cannot differ by a nanosecond;
// otherwise every rank has its own.
Plan make_plan(const GraphSpec& graph, const Services& services);

// Raises std::invalid_argument on durations or sizes that cannot run; `step` is for the message.
void check_values(const Plan& plan, const Services& services, const Time* durations, const Bytes* sizes,
                  std::size_t step);

// Raises std::invalid_argument on durations or sizes that take longer than time can count, so that no node is refused
// once others have started.
void check_times(const Plan& plan, const Services& services, const Time* durations, const Bytes* sizes);

// How long a timed node takes.
Time node_time(const PlanNode& node, const Services& services, const Time* durations, const Bytes* sizes);

// Whether a node completes within the issue pass that would start it, as ASTRA-sim's INVALID nodes do.
bool is_instant(const PlanNode& node, const SystemConfig& config, const Time* durations, const Bytes* sizes);

// Whether a node's time counts as computation, which exposed communication leaves out.
bool is_compute(const PlanNode& node, const SystemConfig& config);
// Tells the memories of a step's accesses that are timed instead of requested.
void count_timed_memory(const Plan& plan, const Services& services, const Bytes* sizes);

struct ChainTime {
  Time total = 0;
  Time compute = 0;  // of the accelerator's COMP nodes
};

// How long a lane that is a chain takes.
ChainTime chain_time(const Plan& plan, const Lane& lane, const Services& services, const Time* durations,
                     const Bytes* sizes);

}  // namespace astra
