#include "astra/graph/plan.h"

#include <algorithm>

#include "astra/base/errors.h"
#include "astra/graph/check.h"
#include "astra/graph/collapse.h"

namespace astra {
namespace {

// LLMServingSim's memory accesses occupy no slot.
Slot slot_of(NodeType type, bool is_cpu_op, bool is_fork) {
  const bool is_access = type == NodeType::kMemLoad || type == NodeType::kMemStore;
  if (type == NodeType::kComp) return is_cpu_op ? Slot::kCpu : Slot::kCompute;
  if (type == NodeType::kPimComp || (is_fork && is_access)) return Slot::kFree;
  return type == NodeType::kRecv ? Slot::kFree : Slot::kComm;
}

class Builder {
 public:
  Builder(const GraphSpec& graph, const Services& services)
      : graph_(graph), services_(services), config_(services.collectives->config()) {}

  Plan build() {
    check_graph(graph_, services_);
    plan_.communicators = make_communicators(graph_, services_);
    if (!config_.replay_only) {
      check_collectives(graph_, services_, plan_.communicators);
    }
    holder_ = class_of_rank(graph_, services_.network->npus());
    is_collapsed_ = can_collapse(graph_, services_, plan_.communicators);
    plan_.names = graph_.names;
    plan_.durations = graph_.duration_ns;
    plan_.sizes = graph_.size_bytes;
    add_lanes();
    for (std::size_t i = 0; i < plan_.lanes.size(); ++i) {
      add_nodes(static_cast<std::uint32_t>(i));
    }
    link();
    plan_.is_timed = !needs_events();
    waiting_ = plan_.waits;
    for (Lane& lane : plan_.lanes) {
      find_chain(lane);
      plan_.is_timed = plan_.is_timed && lane.chain.size() == lane.last - lane.first;
    }
    return std::move(plan_);
  }

 private:
  void add_lanes() {
    std::vector<std::pair<Lane, std::size_t>> lanes;
    for (std::size_t c = 0; c < graph_.rank_classes.size(); ++c) {
      const std::vector<Rank>& ranks = graph_.rank_classes[c];
      for (std::size_t i = 0; i < (is_collapsed_ ? 1 : ranks.size()); ++i) {
        Lane lane;
        lane.rank = ranks[i];
        lane.members = is_collapsed_ ? ranks : std::vector<Rank>{ranks[i]};
        lanes.emplace_back(lane, c);
        place_.push_back(0);
      }
    }
    std::sort(lanes.begin(), lanes.end(), [](const auto& a, const auto& b) { return a.first.rank < b.first.rank; });
    nodes_of_class_.resize(graph_.rank_classes.size());
    for (std::size_t i = 0; i < graph_.size(); ++i) {
      nodes_of_class_[static_cast<std::size_t>(graph_.rank_class[i])].push_back(static_cast<std::uint32_t>(i));
    }
    for (auto& [lane, c] : lanes) {
      const std::vector<Rank>& ranks = graph_.rank_classes[c];
      place_[plan_.lanes.size()] =
          static_cast<std::size_t>(std::find(ranks.begin(), ranks.end(), lane.rank) - ranks.begin());
      class_.push_back(c);
      plan_.lanes.push_back(std::move(lane));
    }
  }

  void add_nodes(std::uint32_t index) {
    Lane& lane = plan_.lanes[index];
    lane.first = static_cast<std::uint32_t>(plan_.nodes.size());
    for (const std::uint32_t source : nodes_of_class_[class_[index]]) {
      plan_.nodes.push_back(node(index, source));
      const NodeType type = plan_.nodes.back().type;
      if (type == NodeType::kSend || type == NodeType::kRecv || type == NodeType::kColl) {
        plan_.sized.push_back(static_cast<std::uint32_t>(plan_.nodes.size() - 1));
      }
      if (is_memory(type) && plan_.nodes.back().is_timed && !config_.replay_only) {
        plan_.timed_memory.push_back(static_cast<std::uint32_t>(plan_.nodes.size() - 1));
      }
    }
    lane.last = static_cast<std::uint32_t>(plan_.nodes.size());
  }

  PlanNode node(std::uint32_t lane, std::uint32_t source) const {
    PlanNode node;
    node.type = static_cast<NodeType>(graph_.type[source]);
    node.slot = slot_of(node.type, graph_.is_cpu_op[source] != 0, config_.is_fork());
    node.collective = static_cast<CollectiveType>(graph_.collective[source]);
    node.location = static_cast<MemoryLocation>(graph_.location[source]);
    node.lane = lane;
    node.source = source;
    node.tag = graph_.tag[source];
    node.involved_dims = graph_.involved_dims[source];
    node.priority = graph_.priority[source];
    node.program = graph_.program[source];
    node.num_ops = graph_.num_ops[source];
    node.device = graph_.device[source];
    node.channel = graph_.channel[source];
    if (config_.replay_only) {
      node.is_timed = true;
      return node;
    }
    if (node.type == NodeType::kSend || node.type == NodeType::kRecv) {
      node.peer = peer(lane, graph_.peer[source]);
    }
    if (node.type == NodeType::kColl && node.collective != CollectiveType::kBroadcast) {
      node.communicator = &plan_.communicators[static_cast<std::size_t>(graph_.group[source] + 1)];
    }
    node.is_timed = is_timed(node, plan_.lanes[lane]);
    return node;
  }

  // Member i of a class talks to the rank i places behind the first member's peer in that one's class.
  Rank peer(std::uint32_t lane, Rank first) const {
    const auto c = static_cast<std::size_t>(holder_[static_cast<std::size_t>(first)]);
    const std::vector<Rank>& ranks = graph_.rank_classes[c];
    const auto place = static_cast<std::size_t>(std::find(ranks.begin(), ranks.end(), first) - ranks.begin());
    return ranks[(place + place_[lane]) % ranks.size()];
  }

  bool is_timed(const PlanNode& node, const Lane& lane) const {
    switch (node.type) {
      case NodeType::kComp:
        return true;
      case NodeType::kInvalid:
        return !config_.parity;
      case NodeType::kMemLoad:
      case NodeType::kMemStore:
        return !node.is_ahead() && !node.is_awaited() && services_.memory(node.location)->is_contention_free();
      case NodeType::kColl:
        // One rank stands for all of its class, or there is nobody else.
        return node.communicator == nullptr || lane.members.size() == node.communicator->ranks.size();
      default:
        return false;
    }
  }

  // ASTRA-sim aborts at an event at time 0, and in LLMServingSim idle ranks report at the first event.
  bool needs_events() const { return config_.parity; }

  // Whether a lane that has only such nodes, one after another, takes the sum of their times.
  bool is_chainable(const PlanNode& node) const { return node.is_timed && !config_.record_nodes && !needs_events(); }

  // Turns "waits for" into "releases"; a dependency that is both data and control counts once.
  void link() {
    const std::size_t n = plan_.nodes.size();
    plan_.waits.assign(n, 0);
    plan_.child_offsets.assign(n + 1, 0);
    std::vector<std::pair<std::uint32_t, std::uint32_t>> edges;  // parent, child
    std::vector<std::uint32_t> local(graph_.size(), 0);
    for (const Lane& lane : plan_.lanes) {
      for (std::uint32_t i = lane.first; i < lane.last; ++i) {
        local[plan_.nodes[i].source] = i;
      }
      for (std::uint32_t i = lane.first; i < lane.last; ++i) {
        for (const std::uint32_t source : parents(plan_.nodes[i].source)) {
          edges.emplace_back(local[source], i);
        }
      }
    }
    std::sort(edges.begin(), edges.end());
    for (const auto& [parent, child] : edges) {
      ++plan_.child_offsets[parent + 1];
      ++plan_.waits[child];
      plan_.children.push_back(child);
    }
    for (std::size_t i = 0; i < n; ++i) {
      plan_.child_offsets[i + 1] += plan_.child_offsets[i];
    }
    for (std::uint32_t i = 0; i < n; ++i) {
      if (plan_.waits[i] == 0) {
        plan_.lanes[plan_.nodes[i].lane].roots.push_back(i);
      }
    }
  }

  std::vector<std::uint32_t> parents(std::uint32_t source) const {
    std::vector<std::uint32_t> result;
    for (const Rows* rows : {&graph_.data_deps, &graph_.ctrl_deps}) {
      for (std::int32_t d = rows->offsets[source]; d < rows->offsets[source + 1]; ++d) {
        result.push_back(static_cast<std::uint32_t>(rows->values[static_cast<std::size_t>(d)]));
      }
    }
    std::sort(result.begin(), result.end());
    result.erase(std::unique(result.begin(), result.end()), result.end());
    return result;
  }

  // Walks the lane in an order of its dependencies; refuses cycles.
  void find_chain(Lane& lane) {
    std::vector<std::uint32_t> order = lane.roots;
    bool is_chain = true;
    for (std::size_t i = 0; i < order.size(); ++i) {
      is_chain = is_chain && order.size() == i + 1 && is_chainable(plan_.nodes[order[i]]);
      for (std::uint32_t c = plan_.child_offsets[order[i]]; c < plan_.child_offsets[order[i] + 1]; ++c) {
        if (--waiting_[plan_.children[c]] == 0) {
          order.push_back(plan_.children[c]);
        }
      }
    }
    if (order.size() != lane.last - lane.first) {
      const auto stuck = std::find_if(waiting_.begin() + lane.first, waiting_.begin() + lane.last,
                                      [](std::uint32_t left) { return left > 0; });
      const auto node = static_cast<std::size_t>(stuck - waiting_.begin());
      refuse("graph: " + describe(graph_, plan_.nodes[node].source) + " is on or behind a cycle of dependencies");
    }
    if (is_chain) {
      lane.chain = std::move(order);
    }
  }

  const GraphSpec& graph_;
  const Services& services_;
  const SystemConfig& config_;
  Plan plan_;
  bool is_collapsed_ = false;
  std::vector<std::int32_t> holder_;  // class of each rank
  std::vector<std::size_t> class_;    // of each lane
  std::vector<std::size_t> place_;    // of each lane's rank in its class
  std::vector<std::vector<std::uint32_t>> nodes_of_class_;
  std::vector<std::uint32_t> waiting_;  // dependencies not yet walked, per node
};

}  // namespace

Plan make_plan(const GraphSpec& graph, const Services& services) { return Builder(graph, services).build(); }

}  // namespace astra
