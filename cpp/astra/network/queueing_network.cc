#include "astra/network/queueing_network.h"

#include <string>
#include <utility>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"

namespace astra {

QueueingNetwork::QueueingNetwork(std::unique_ptr<Topology> topology, EventQueue& events, bool refuses_aborts)
    : RoutedNetwork(std::move(topology), events), refuses_aborts_(refuses_aborts) {}

void QueueingNetwork::send(Rank from, Rank to, Bytes bytes, Call arrived, Channel) {
  const std::span<const LinkIndex> route = topology().route(from, to);
  if (route.empty()) {
    events().schedule(0, arrived);
    return;
  }
  for (std::size_t i = states_.size(); i < links().size(); ++i) {
    states_.emplace_back().bandwidth = links()[i].bandwidth;
    states_.back().latency_ns = links()[i].latency_ns;
  }
  const std::uint32_t index = messages_.take();
  messages_[index].ahead = route;
  messages_[index].bytes = bytes;
  messages_[index].arrived = arrived;
  offer(index);
}

void QueueingNetwork::offer(std::uint32_t message) {
  const LinkIndex index = messages_[message].ahead.front();
  LinkState& link = states_[index];
  if (!link.is_busy) {
    start(index, message);
    return;
  }
  if (link.first == kNone) {
    link.first = message;
  } else {
    messages_[link.last].behind = message;
  }
  link.last = message;
}

void QueueingNetwork::start(LinkIndex index, std::uint32_t message) {
  LinkState& link = states_[index];
  const Bytes bytes = messages_[message].bytes;
  const double transmission = static_cast<double>(bytes) / link.bandwidth;
  if (refuses_aborts_ && now() == 0 && transmission < 1) {
    refuse_abort(index, bytes);
  }
  link.is_busy = true;
  link.carrying = bytes;
  link.since = now();
  // In this order: where latency is below a nanosecond, the message moves on before the next one starts.
  events().schedule(truncate(link.latency_ns + transmission), {this, kArrived, message});
  events().schedule(truncate(transmission), {this, kFree, index});
}

void QueueingNetwork::refuse_abort(LinkIndex index, Bytes bytes) const {
  const Link& link = links()[index];
  refuse("network: a message of " + std::to_string(bytes) + " bytes occupies the link from device " +
         std::to_string(link.from) + " to " + std::to_string(link.to) +
         " for less than 1 ns at t = 0, where ASTRA-sim's congestion-aware binary aborts");
}

void QueueingNetwork::free(LinkIndex index) {
  LinkState& link = states_[index];
  check(link.is_busy, "a link becomes free after it was busy");
  link.is_busy = false;
  link.use.bytes += link.carrying;
  link.use.busy_ns += now() - link.since;
  const std::uint32_t next = link.first;
  if (next != kNone) {
    link.first = std::exchange(messages_[next].behind, kNone);
    start(index, next);
  }
}

void QueueingNetwork::fire(std::uint32_t code, std::uint64_t arg) {
  if (code == kFree) {
    free(static_cast<LinkIndex>(arg));
    return;
  }
  const auto index = static_cast<std::uint32_t>(arg);
  Message& message = messages_[index];
  message.ahead = message.ahead.subspan(1);
  if (!message.ahead.empty()) {
    offer(index);
    return;
  }
  const Call arrived = message.arrived;
  messages_.give_back(index);
  arrived();
}

Time QueueingNetwork::lone_delay(Rank from, Rank to, Bytes bytes) const {
  double total = 0;
  for (const LinkIndex index : topology().route(from, to)) {
    const Link& link = links()[index];
    total += static_cast<double>(truncate(link.latency_ns + static_cast<double>(bytes) / link.bandwidth));
  }
  return truncate(total);
}

std::vector<LinkUse> QueueingNetwork::link_use() const {
  std::vector<LinkUse> result(links().size());
  for (std::size_t i = 0; i < states_.size(); ++i) {
    result[i] = states_[i].use;
    result[i].busy_ns += states_[i].is_busy ? now() - states_[i].since : 0;
  }
  return result;
}

}  // namespace astra
