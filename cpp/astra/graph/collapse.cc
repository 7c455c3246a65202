#include "astra/graph/collapse.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "astra/base/errors.h"
#include "astra/graph/check.h"

namespace astra {
namespace {

bool spans_class(const Communicator& communicator, const std::vector<Rank>& ranks) {
  return communicator.ranks.size() == ranks.size() &&
         std::all_of(ranks.begin(), ranks.end(), [&](Rank rank) { return communicator.place(rank) != -1; });
}

bool has_alike_messages(const Network& network, const std::vector<Rank>& from, const std::vector<Rank>& to) {
  if (!network.fixed_delay(from[0], to[0], 0).has_value()) {
    return false;  // messages of the members may meet on a link
  }
  for (std::size_t i = 1; i < from.size(); ++i) {
    if (!network.are_alike(from[0], to[0], from[i], to[i])) {
      return false;
    }
  }
  return true;
}

}  // namespace

std::deque<Communicator> make_communicators(const GraphSpec& graph, const Services& services) {
  std::deque<Communicator> result;
  result.push_back(services.collectives->communicator({}, 0));
  for (std::size_t g = 0; g < graph.groups.size(); ++g) {
    if (graph.groups[g].empty()) {
      refuse("graph: group " + std::to_string(g) + " has no rank");
    }
    result.push_back(services.collectives->communicator(graph.groups[g], g + 1));
  }
  return result;
}

bool can_collapse(const GraphSpec& graph, const Services& services, const std::deque<Communicator>& communicators) {
  if (services.collectives->config().replay_only) {
    return true;
  }
  const std::vector<std::int32_t> holder = class_of_rank(graph, services.network->npus());
  std::map<std::tuple<std::int32_t, std::uint8_t, std::uint32_t, std::int32_t>, bool> seen;  // collectives
  for (std::size_t i = 0; i < graph.size(); ++i) {
    const std::vector<Rank>& ranks = graph.rank_classes[static_cast<std::size_t>(graph.rank_class[i])];
    if (ranks.size() == 1) {
      continue;
    }
    const auto type = static_cast<NodeType>(graph.type[i]);
    if (type == NodeType::kColl && static_cast<CollectiveType>(graph.collective[i]) != CollectiveType::kBroadcast) {
      const Communicator& communicator = communicators[static_cast<std::size_t>(graph.group[i] + 1)];
      const CollectiveRequest request{
          &communicator,   static_cast<CollectiveType>(graph.collective[i]), graph.involved_dims[i], 1, 0,
          graph.program[i]};
      const auto [known, is_new] = seen.emplace(
          std::tuple{graph.group[i], graph.collective[i], graph.involved_dims[i], graph.program[i]}, false);
      if (is_new) {
        known->second = spans_class(communicator, ranks) && services.symmetric->is_symmetric(request);
      }
      if (!known->second) return false;
    } else if (type == NodeType::kSend || type == NodeType::kRecv) {
      const std::int32_t other = holder[static_cast<std::size_t>(graph.peer[i])];
      const std::vector<Rank>& peers = graph.rank_classes[static_cast<std::size_t>(other)];
      if (peers[0] != graph.peer[i]) return false;
      const bool is_send = type == NodeType::kSend;
      if (!has_alike_messages(*services.network, is_send ? ranks : peers, is_send ? peers : ranks)) return false;
    } else if (type == NodeType::kPimComp) {
      return false;  // its channel is shared
    } else if (is_memory(type)) {
      if (graph.tag[i] != 0) return false;  // every rank has buffers of its own
      if (!services.memory(static_cast<MemoryLocation>(graph.location[i]))->is_contention_free()) return false;
    }
  }
  return true;
}

}  // namespace astra
