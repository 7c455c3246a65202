#include "astra/graph/run.h"

#include <algorithm>
#include <functional>

#include "astra/base/errors.h"

namespace astra {
namespace {

constexpr std::size_t index(Slot slot) { return static_cast<std::size_t>(slot); }

}  // namespace

GraphRun::GraphRun(const Plan& plan, Services& services)
    : plan_(plan),
      services_(services),
      config_(services.collectives->config()),
      mailbox_(services.events, *services.network, services.collectives->config().rendezvous),
      collectives_(services.events, mailbox_, *services.collectives,
                   services.turns.empty() ? nullptr : &services.turns),
      lanes_(plan.lanes.size()),
      finish_(plan.lanes.size()),
      compute_(plan.lanes.size()) {}

void GraphRun::begin(const Time* durations, const Bytes* sizes, Call ended) {
  durations_ = durations;
  sizes_ = sizes;
  ended_ = ended;
  waits_ = plan_.waits;
  state_.assign(plan_.nodes.size(), NodeState::kWaiting);
  mailbox_.clear();
  collectives_.reset(lanes_.size());
  std::fill(compute_.begin(), compute_.end(), 0);
  lanes_left_ = lanes_.size();
  node_starts_.assign(config_.record_nodes ? plan_.nodes.size() : 0, -1);
  node_ends_ = node_starts_;
  const bool is_start_up = config_.parity && !config_.is_fork() && services_.events.now() == 0;
  services_.events.refuse_time_zero(is_start_up);
  count_timed_memory(plan_, services_, sizes_);
  for (std::uint32_t lane = 0; lane < lanes_.size(); ++lane) {
    begin_lane(lane);
  }
  services_.events.refuse_time_zero(false);
  report_idle();
}

// LLMServingSim's loop hears of a rank that has nothing to do only after the first instant at which something happens
// somewhere; where nothing does, it polls after a millisecond.
void GraphRun::report_idle() {
  constexpr Time kPollNs = 1'000'000;
  const EventQueue& events = services_.events;
  const Time delay = events.empty() ? kPollNs : events.next_time() - events.now();
  for (const std::uint32_t lane : idle_) {
    services_.events.schedule(delay, {this, kLaneDone, lane});
  }
  idle_.clear();
}

void GraphRun::begin_lane(std::uint32_t lane) {
  const Lane& plan = plan_.lanes[lane];
  LaneState& state = lanes_[lane];
  state.left = plan.last - plan.first;
  if (!plan.chain.empty()) {
    begin_chain(lane);
    return;
  }
  for (const std::uint32_t node : plan.roots) {
    make_ready(node);
  }
  issue(lane);
  if (state.left == 0 && config_.parity && config_.is_fork()) {
    idle_.push_back(lane);
  } else {
    test_finish(lane);
  }
}

void GraphRun::begin_chain(std::uint32_t lane) {
  const ChainTime chain = chain_time(plan_, plan_.lanes[lane], services_, durations_, sizes_);
  compute_[lane] = chain.compute;
  services_.events.schedule_local(lanes_[lane].local, chain.total, {this, kLaneDone, lane});
}

void GraphRun::make_ready(std::uint32_t node) {
  state_[node] = NodeState::kReady;
  std::vector<std::uint32_t>& heap = lanes_[plan_.nodes[node].lane].ready[index(plan_.nodes[node].slot)];
  heap.push_back(node);
  std::push_heap(heap.begin(), heap.end(), std::greater<>{});
}

bool GraphRun::next_startable(LaneState& lane, std::uint32_t* node) const {
  std::size_t best = kSlots;
  for (std::size_t slot = 0; slot < kSlots; ++slot) {
    const std::vector<std::uint32_t>& heap = lane.ready[slot];
    if (!heap.empty() && !lane.is_busy[slot] && (best == kSlots || heap.front() < lane.ready[best].front())) {
      best = slot;
    }
  }
  if (best == kSlots) {
    return false;
  }
  std::vector<std::uint32_t>& heap = lane.ready[best];
  *node = heap.front();
  std::pop_heap(heap.begin(), heap.end(), std::greater<>{});
  heap.pop_back();
  return true;
}

void GraphRun::issue(std::uint32_t lane) {
  released_.clear();
  std::uint32_t node = 0;
  while (next_startable(lanes_[lane], &node)) {
    start(node);
    if (config_.is_fork()) {
      make_released_ready();
    }
  }
  // In ASTRA-sim not part of this pass: nothing starts them until the next completion on this rank.
  make_released_ready();
}

void GraphRun::make_released_ready() {
  for (const std::uint32_t child : released_) {
    make_ready(child);
  }
  released_.clear();
}

void GraphRun::start(std::uint32_t node) {
  const PlanNode& n = plan_.nodes[node];
  LaneState& lane = lanes_[n.lane];
  if (config_.record_nodes) {
    node_starts_[node] = services_.events.now();
  }
  if (is_instant(n, config_, durations_, sizes_)) {
    end(node);
    return;
  }
  lane.is_busy[index(n.slot)] = n.slot != Slot::kFree;
  state_[node] = NodeState::kRunning;
  if (n.is_timed) {
    start_timed(node);
  } else if (n.type == NodeType::kSend || n.type == NodeType::kRecv) {
    start_message(node);
  } else if (n.type == NodeType::kColl) {
    start_collective(node);
  } else {
    start_access(node);
  }
}

void GraphRun::start_timed(std::uint32_t node) {
  const PlanNode& n = plan_.nodes[node];
  const Time time = node_time(n, services_, durations_, sizes_);
  compute_[n.lane] += is_compute(n, config_) ? time : 0;
  services_.events.schedule_local(lanes_[n.lane].local, time, {this, kNodeDone, node});
}

void GraphRun::start_message(std::uint32_t node) {
  const PlanNode& n = plan_.nodes[node];
  const Rank rank = plan_.lanes[n.lane].rank;
  const Bytes size = sizes_[n.source];
  const Call done{this, kNodeDone, node};
  // ASTRA-sim keeps tags from 5 * 10^8 on for collectives.
  const std::int32_t kept = config_.parity ? n.tag % 500'000'000 : n.tag;
  const auto tag = static_cast<std::uint64_t>(static_cast<std::uint32_t>(kept));
  if (n.type == NodeType::kSend) {
    mailbox_.send({tag, rank, n.peer, size}, done);
  } else {
    mailbox_.receive({tag, n.peer, rank, size}, done);
  }
}

void GraphRun::start_collective(std::uint32_t node) {
  const PlanNode& n = plan_.nodes[node];
  const CollectiveRequest request = n.request(sizes_[n.source]);
  const Call done{this, kNodeDone, node};
  LocalTimes& local = lanes_[n.lane].local;
  if (services_.collectives->is_instant(request)) {
    services_.events.schedule_local(local, 0, done);
    return;
  }
  collectives_.issue(n.lane, local, plan_.lanes[n.lane].rank, request, done);
}

void GraphRun::start_access(std::uint32_t node) {
  const PlanNode& n = plan_.nodes[node];
  const MemoryAccess access = n.access(plan_.lanes[n.lane].rank, sizes_[n.source]);
  MemoryModel& memory = *services_.memory(n.location);
  LocalTimes& local = lanes_[n.lane].local;
  const Call done{this, kNodeDone, node};
  if (n.type == NodeType::kPimComp) {
    memory.compute(access, durations_[n.source], local, done);
  } else if (n.is_ahead()) {
    services_.buffers.fill(n.tag, memory, access);
    services_.events.schedule_local(local, 0, done);
  } else if (n.is_awaited()) {
    services_.buffers.await(access.rank, -n.tag, done);
  } else {
    memory.request(access, local, done);
  }
}

void GraphRun::release_children(std::uint32_t node) {
  for (std::uint32_t c = plan_.child_offsets[node]; c < plan_.child_offsets[node + 1]; ++c) {
    if (--waits_[plan_.children[c]] == 0) {
      released_.push_back(plan_.children[c]);
    }
  }
}

// Frees the node's slot and releases its children.
void GraphRun::end(std::uint32_t node) {
  const PlanNode& n = plan_.nodes[node];
  LaneState& lane = lanes_[n.lane];
  state_[node] = NodeState::kDone;
  lane.is_busy[index(n.slot)] = false;
  --lane.left;
  if (config_.record_nodes) {
    node_ends_[node] = services_.events.now();
  }
  release_children(node);
}

void GraphRun::complete(std::uint32_t node) {
  check(state_[node] == NodeState::kRunning, "a node completes once, after its start");
  const std::uint32_t lane = plan_.nodes[node].lane;
  released_.clear();
  end(node);
  make_released_ready();
  issue(lane);
  test_finish(lane);
}

void GraphRun::test_finish(std::uint32_t lane) {
  if (lanes_[lane].left > 0) {
    return;
  }
  finish_[lane] = services_.events.now();
  --lanes_left_;
  if (lanes_left_ == 0) {
    ended_();
  }
}

void GraphRun::fire(std::uint32_t code, std::uint64_t arg) {
  if (code == kNodeDone) {
    complete(static_cast<std::uint32_t>(arg));
    return;
  }
  const auto lane = static_cast<std::uint32_t>(arg);
  lanes_[lane].left = 0;
  test_finish(lane);
}

std::string GraphRun::reason(const PlanNode& node) const {
  const std::string size = std::to_string(sizes_[node.source]);
  switch (node.type) {
    case NodeType::kRecv:
      return "waits for " + size + " bytes with tag " + std::to_string(node.tag) + " from rank " +
             std::to_string(node.peer);
    case NodeType::kColl:
      return "waits for the other ranks of a collective of " + std::to_string(node.communicator->ranks.size()) +
             " ranks and " + size + " bytes";
    default:
      return "has not completed";
  }
}

void GraphRun::list_stuck(std::string* text) const {
  constexpr int kMost = 20;
  int listed = 0;
  for (std::uint32_t i = 0; i < plan_.nodes.size(); ++i) {
    const PlanNode& n = plan_.nodes[i];
    const bool is_stalled = state_[i] == NodeState::kReady && !lanes_[n.lane].is_busy[index(n.slot)];
    if (state_[i] != NodeState::kRunning && !is_stalled) {
      continue;
    }
    if (++listed > kMost) {
      *text += "\n    ...";
      return;
    }
    const Lane& lane = plan_.lanes[n.lane];
    const std::size_t others = lane.members.size() - 1;
    *text += "\n    rank " + std::to_string(lane.rank) +
             (others > 0 ? " (and " + std::to_string(others) + " more of its class)" : "") + ", node " +
             std::to_string(n.source) + " '" + printable(plan_.names[n.source]) + "' ";
    *text += is_stalled ? "is ready, but nothing on its rank completes any more" : reason(n);
  }
}

}  // namespace astra
