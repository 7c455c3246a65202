#include "astra/network/flow_network.h"

#include <utility>

#include "astra/base/truncate.h"

namespace astra {

FlowNetwork::FlowNetwork(std::unique_ptr<Topology> topology, EventQueue& events)
    : RoutedNetwork(std::move(topology), events), flows_(events) {}

Time FlowNetwork::lone_delay(Rank from, Rank to, Bytes bytes) const {
  const Path path = topology().path(from, to);
  return truncate(path.latency_ns + static_cast<double>(bytes) / path.bandwidth);
}

std::size_t FlowNetwork::ConnectionHash::operator()(const Connection& connection) const {
  const std::uint64_t pair =
      std::uint64_t{static_cast<std::uint32_t>(connection.from)} << 32 | static_cast<std::uint32_t>(connection.to);
  return static_cast<std::size_t>(mix(mix(connection.channel) ^ pair));
}

void FlowNetwork::send(Rank from, Rank to, Bytes bytes, Call arrived, Channel channel) {
  if (topology().route(from, to).empty()) {
    events().schedule(0, arrived);
    return;
  }
  const Connection connection{channel, from, to};
  Queue* queue = channel == 0 ? nullptr : queues_.find(connection);
  if (queue == nullptr) {
    if (channel != 0) {
      queues_.insert(connection, {});
    }
    start(connection, bytes, arrived);
    return;
  }
  const std::uint32_t place = waiting_.take();
  waiting_[place] = {bytes, arrived};
  if (queue->first == kNobody) {
    queue->first = place;
  } else {
    waiting_[queue->last].next = place;
  }
  queue->last = place;
}

void FlowNetwork::start_next(const Connection& connection) {
  Queue* queue = queues_.find(connection);
  const std::uint32_t place = queue->first;
  if (place == kNobody) {
    queues_.erase(queue);
    return;
  }
  const Waiting next = waiting_[place];
  waiting_.give_back(place);
  queue->first = next.next;
  start(connection, next.bytes, next.arrived);
}

void FlowNetwork::start(const Connection& connection, Bytes bytes, Call arrived) {
  MaxMinFlows::Request flow;
  flow.route = topology().route(connection.from, connection.to);
  flow.latency_ns = topology().path(connection.from, connection.to).latency_ns;
  flow.bytes = bytes;
  flow.arrived = arrived;
  if (connection.channel != 0) {
    const std::uint32_t place = under_way_.take();
    under_way_[place] = connection;
    flow.left = {this, 0, place};
  }
  while (flows_.num_links() < links().size()) {
    flows_.add_link(links()[flows_.num_links()].bandwidth);
  }
  flows_.start(flow);
}

void FlowNetwork::fire(std::uint32_t, std::uint64_t arg) {
  const auto place = static_cast<std::uint32_t>(arg);
  const Connection connection = under_way_[place];
  under_way_.give_back(place);
  start_next(connection);
}

std::vector<LinkUse> FlowNetwork::link_use() const {
  std::vector<LinkUse> result = flows_.use();
  result.resize(links().size());
  return result;
}

}  // namespace astra
