#include "astra/graph/check.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "astra/base/errors.h"

namespace astra {
namespace {

std::string number(std::int64_t value) { return std::to_string(value); }

void check_lengths(const GraphSpec& graph) {
  const std::size_t n = graph.size();
  if (n == 0) {
    refuse("graph: it has no node");
  }
  const std::size_t lengths[] = {
      graph.type.size(),       graph.rank_class.size(), graph.duration_ns.size(),   graph.size_bytes.size(),
      graph.collective.size(), graph.peer.size(),       graph.tag.size(),           graph.location.size(),
      graph.group.size(),      graph.is_cpu_op.size(),  graph.involved_dims.size(), graph.priority.size(),
      graph.num_ops.size(),    graph.device.size(),     graph.channel.size(),       graph.program.size()};
  if (std::any_of(std::begin(lengths), std::end(lengths), [n](std::size_t length) { return length != n; })) {
    refuse("graph: every array must have one entry per name (" + std::to_string(n) + ")");
  }
}

void check_classes(const GraphSpec& graph, std::int64_t npus) {
  std::vector<bool> seen(static_cast<std::size_t>(npus), false);
  for (std::size_t c = 0; c < graph.rank_classes.size(); ++c) {
    if (graph.rank_classes[c].empty()) {
      refuse("graph: rank class " + std::to_string(c) + " has no rank");
    }
    for (const Rank rank : graph.rank_classes[c]) {
      if (rank < 0 || rank >= npus) {
        refuse("graph: rank " + number(rank) + " of rank class " + std::to_string(c) + " is not below npus_count " +
               number(npus));
      }
      if (seen[static_cast<std::size_t>(rank)]) {
        refuse("graph: rank " + number(rank) + " is in two rank classes");
      }
      seen[static_cast<std::size_t>(rank)] = true;
    }
  }
}

void check_rows(const GraphSpec& graph, const Rows& rows, const char* what) {
  const std::size_t n = graph.size();
  if (rows.offsets.size() != n + 1 || rows.offsets[0] != 0 ||
      !std::is_sorted(rows.offsets.begin(), rows.offsets.end()) ||
      static_cast<std::size_t>(rows.offsets[n]) != rows.values.size()) {
    refuse(std::string("graph: ") + what + "_offsets must rise from 0 to the number of " + what + "_deps");
  }
  for (std::size_t i = 0; i < n; ++i) {
    for (std::int32_t d = rows.offsets[i]; d < rows.offsets[i + 1]; ++d) {
      const std::int32_t on = rows.values[static_cast<std::size_t>(d)];
      if (on < 0 || static_cast<std::size_t>(on) >= n) {
        refuse("graph: " + describe(graph, i) + " depends on node " + number(on) + ", which does not exist");
      }
      if (graph.rank_class[static_cast<std::size_t>(on)] != graph.rank_class[i]) {
        refuse("graph: " + describe(graph, i) + " depends on node " + number(on) + " of another rank class");
      }
    }
  }
}

void check_collective(const GraphSpec& graph, std::size_t node) {
  const auto type = static_cast<CollectiveType>(graph.collective[node]);
  if (type == CollectiveType::kBroadcast) {
    return;
  }
  if (!CollectiveLibrary::is_algorithmic(type)) {
    refuse("graph: " + describe(graph, node) + ": collective type " + number(graph.collective[node]) +
           " is not one of ALL_REDUCE 0, ALL_GATHER 2, BROADCAST 5, ALL_TO_ALL 6, REDUCE_SCATTER 7");
  }
  const std::int32_t group = graph.group[node];
  if (group < -1 || group >= static_cast<std::int32_t>(graph.groups.size())) {
    refuse("graph: " + describe(graph, node) + ": group " + number(group) + " does not exist");
  }
}

// Every rank of the group must be in the graph, or the collective could never complete.
void check_members(const GraphSpec& graph, std::size_t node, const std::vector<std::int32_t>& holder) {
  const std::int32_t group = graph.group[node];
  const auto npus = static_cast<Rank>(holder.size());
  std::vector<Rank> ranks(holder.size());
  std::iota(ranks.begin(), ranks.end(), 0);
  if (group >= 0) {
    ranks = graph.groups[static_cast<std::size_t>(group)];
  }
  bool holds_own = false;
  for (const Rank rank : ranks) {
    if (rank < 0 || rank >= npus || holder[static_cast<std::size_t>(rank)] == -1) {
      refuse("graph: " + describe(graph, node) + " spans rank " + number(rank) + ", which is in no rank class" +
             (group < 0 ? " (group -1 means every rank of the network)" : ""));
    }
    holds_own = holds_own || holder[static_cast<std::size_t>(rank)] == graph.rank_class[node];
  }
  if (!holds_own) {
    refuse("graph: " + describe(graph, node) + ": its own rank is not in group " + number(group));
  }
}

void check_message(const GraphSpec& graph, std::size_t node, const std::vector<std::int32_t>& holder) {
  const Rank peer = graph.peer[node];
  const std::int32_t own = graph.rank_class[node];
  if (peer < 0 || static_cast<std::size_t>(peer) >= holder.size() || holder[static_cast<std::size_t>(peer)] == -1) {
    refuse("graph: " + describe(graph, node) + ": its peer, rank " + number(peer) + ", is in no rank class");
  }
  const std::int32_t other = holder[static_cast<std::size_t>(peer)];
  if (other == own) {
    refuse("graph: " + describe(graph, node) + ": its peer, rank " + number(peer) + ", is in its own rank class");
  }
  const std::vector<Rank>& peers = graph.rank_classes[static_cast<std::size_t>(other)];
  const std::size_t members = graph.rank_classes[static_cast<std::size_t>(own)].size();
  if (peers.size() != members) {
    refuse("graph: " + describe(graph, node) + ": a class of " + std::to_string(members) +
           " ranks cannot exchange with rank " + number(peer) + ", of a class of " + std::to_string(peers.size()));
  }
}

void check_memory(const GraphSpec& graph, std::size_t node, const Services& services) {
  const auto location = static_cast<MemoryLocation>(graph.location[node]);
  if (services.memory(location) == nullptr) {
    const char* const names[] = {"local", "remote", "cxl", "storage"};
    const std::size_t place = std::size_t{graph.location[node]} - 1;
    refuse("graph: " + describe(graph, node) + " accesses memory location " + number(graph.location[node]) +
           (place < std::size(names) ? std::string(", but the ") + names[place] + " memory is NO_MEMORY_EXPANSION"
                                     : ", which is not one of LOCAL 1, REMOTE 2, CXL 3, STORAGE 4"));
  }
  const Rank first = graph.rank_classes[static_cast<std::size_t>(graph.rank_class[node])][0];
  const auto type = static_cast<NodeType>(graph.type[node]);
  const MemoryAccess access{first, graph.device[node], graph.channel[node], type == NodeType::kMemStore,
                            graph.size_bytes[node]};
  try {
    services.memory(location)->check_access(access, type == NodeType::kPimComp);
  } catch (const std::invalid_argument& error) {
    refuse("graph: " + describe(graph, node) + ": " + error.what());
  }
}

void check_node(const GraphSpec& graph, std::size_t node, const Services& services,
                const std::vector<std::int32_t>& holder) {
  const auto type = static_cast<NodeType>(graph.type[node]);
  if (graph.is_cpu_op[node] != 0 && type != NodeType::kComp) {
    refuse("graph: " + describe(graph, node) + ": only COMP nodes run on the CPU");
  }
  switch (type) {
    case NodeType::kInvalid:
    case NodeType::kComp:
      return;
    case NodeType::kMemLoad:
    case NodeType::kMemStore:
    case NodeType::kPimComp:
      return check_memory(graph, node, services);
    case NodeType::kSend:
    case NodeType::kRecv:
      return check_message(graph, node, holder);
    case NodeType::kColl:
      return check_collective(graph, node);
    default:
      refuse("graph: " + describe(graph, node) + ": node type " + number(graph.type[node]) +
             " is not supported (METADATA 1 and types above 8 are not)");
  }
}

}  // namespace

std::string describe(const GraphSpec& graph, std::size_t node) {
  return "node " + std::to_string(node) + " '" + printable(graph.names[node]) + "'";
}

std::vector<std::int32_t> class_of_rank(const GraphSpec& graph, std::int64_t npus) {
  std::vector<std::int32_t> holder(static_cast<std::size_t>(npus), -1);
  for (std::size_t c = 0; c < graph.rank_classes.size(); ++c) {
    for (const Rank rank : graph.rank_classes[c]) {
      holder[static_cast<std::size_t>(rank)] = static_cast<std::int32_t>(c);
    }
  }
  return holder;
}

void check_graph(const GraphSpec& graph, const Services& services) {
  check_lengths(graph);
  check_classes(graph, services.network->npus());
  for (std::size_t i = 0; i < graph.size(); ++i) {
    const std::int32_t c = graph.rank_class[i];
    if (c < 0 || static_cast<std::size_t>(c) >= graph.rank_classes.size()) {
      refuse("graph: " + describe(graph, i) + ": rank class " + number(c) + " does not exist");
    }
  }
  check_rows(graph, graph.data_deps, "data");
  check_rows(graph, graph.ctrl_deps, "ctrl");
  if (services.collectives->config().replay_only) {
    return;  // durations alone count
  }
  const std::vector<std::int32_t> holder = class_of_rank(graph, services.network->npus());
  std::set<std::pair<std::int32_t, std::int32_t>> seen;  // classes and groups
  for (std::size_t i = 0; i < graph.size(); ++i) {
    check_node(graph, i, services, holder);
    const bool is_collective = static_cast<NodeType>(graph.type[i]) == NodeType::kColl &&
                               CollectiveLibrary::is_algorithmic(static_cast<CollectiveType>(graph.collective[i]));
    if (is_collective && seen.emplace(graph.rank_class[i], graph.group[i]).second) {
      check_members(graph, i, holder);
    }
  }
}

void check_collectives(const GraphSpec& graph, const Services& services,
                       const std::deque<Communicator>& communicators) {
  std::set<std::tuple<std::int32_t, std::uint8_t, std::uint32_t, std::int32_t>> seen;
  for (std::size_t i = 0; i < graph.size(); ++i) {
    const auto type = static_cast<CollectiveType>(graph.collective[i]);
    if (static_cast<NodeType>(graph.type[i]) != NodeType::kColl || !CollectiveLibrary::is_algorithmic(type) ||
        !seen.emplace(graph.group[i], graph.collective[i], graph.involved_dims[i], graph.program[i]).second) {
      continue;
    }
    const Communicator& communicator = communicators[static_cast<std::size_t>(graph.group[i] + 1)];
    try {
      services.collectives->check_request({&communicator, type, graph.involved_dims[i], 1, 0, graph.program[i]});
    } catch (const std::invalid_argument& error) {
      refuse("graph: " + describe(graph, i) + ": " + error.what());
    }
  }
}

}  // namespace astra
