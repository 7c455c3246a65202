#include "astra/network/flow_network.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"

namespace astra {
namespace {

// Rates this close are one rate that was computed in two ways; results must not depend on which way it was.
constexpr double kSameRate = 1e-12;

}  // namespace

FlowNetwork::FlowNetwork(std::unique_ptr<Topology> topology, EventQueue& events)
    : RoutedNetwork(std::move(topology), events) {}

Time FlowNetwork::lone_delay(Rank from, Rank to, Bytes bytes) const {
  const Path path = topology().path(from, to);
  return truncate(path.latency_ns + static_cast<double>(bytes) / path.bandwidth);
}

void FlowNetwork::number_links() {
  for (std::size_t i = states_.size(); i < links().size(); ++i) {
    states_.emplace_back().bandwidth = links()[i].bandwidth;
  }
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
  if (connection.channel == 0) {
    return;
  }
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
  number_links();
  const std::span<const LinkIndex> route = topology().route(connection.from, connection.to);
  const FlowIndex index = flows_.take();
  Flow& flow = flows_[index];
  flow.connection = connection;
  flow.route = route;
  flow.latency_ns = topology().path(connection.from, connection.to).latency_ns;
  flow.bytes = bytes;
  flow.remaining = static_cast<double>(bytes);
  flow.changed = now();
  flow.order = next_order_++;
  flow.arrived = arrived;
  for (const LinkIndex l : route) {
    LinkState& link = states_[l];
    link.flows.push_back(index);
    if (link.carried++ == 0) {
      link.since = now();
    }
    mark_changed(l);
  }
}

void FlowNetwork::mark_changed(LinkIndex link) {
  if (!states_[link].is_changed) {
    states_[link].is_changed = true;
    changed_.push_back(link);
  }
  if (!is_solving_) {
    is_solving_ = true;
    events().schedule(0, {this, kSolve});  // after what else happens at this instant
  }
}

void FlowNetwork::fire(std::uint32_t code, std::uint64_t) {
  if (code == kSolve) {
    solve();
  } else if (now() == wake_) {  // otherwise an earlier wake-up has taken its place
    wake_ = kNever;
    leave_due();
  }
  if (!is_solving_) {
    for (const FlowIndex flow : left_) {
      flows_.give_back(flow);
    }
    left_.clear();
    wake_next();
  }
}

void FlowNetwork::solve() {
  check(departures_.empty() || departures_.next_time() > now(), "what ends now has left before others get its share");
  ++solution_;
  for (const LinkIndex link : changed_) {
    if (states_[link].solution == solution_) {
      continue;
    }
    gather(link);
    fill();
    for (const FlowIndex flow : component_flows_) {
      apply_rate(flow);
    }
  }
  changed_.clear();
  is_solving_ = false;
}

// Finds all links and flows that share with each other, directly or through others, beginning at one link.
void FlowNetwork::gather(LinkIndex seed) {
  component_links_.clear();
  component_flows_.clear();
  visit(seed);
  for (std::size_t i = 0; i < component_links_.size(); ++i) {
    for (const FlowIndex index : states_[component_links_[i]].flows) {
      Flow& flow = flows_[index];
      if (flow.solution == solution_) {
        continue;
      }
      flow.solution = solution_;
      flow.is_fixed = false;
      component_flows_.push_back(index);
      for (const LinkIndex link : flow.route) {
        visit(link);
      }
    }
  }
}

void FlowNetwork::visit(LinkIndex index) {
  LinkState& link = states_[index];
  if (link.solution == solution_) {
    return;
  }
  link.solution = solution_;
  component_links_.push_back(index);
  if (link.is_changed) {
    link.is_changed = false;
    std::erase_if(link.flows, [this](FlowIndex flow) { return flows_[flow].has_left; });
  }
  check(link.flows.size() == link.carried, "a link lists the flows that it carries");
}

// Progressive filling: all rates grow together until a link is full; its flows keep that rate, the others grow on.
void FlowNetwork::fill() {
  shares_.clear();
  for (const LinkIndex index : component_links_) {
    LinkState& link = states_[index];
    link.residual = link.bandwidth;
    link.waiting = link.carried;
    if (link.waiting > 0) {
      shares_.push_back({link.bandwidth / static_cast<double>(link.waiting), index});
    }
  }
  std::make_heap(shares_.begin(), shares_.end(), std::greater<>{});
  double level = 0;
  while (!shares_.empty()) {
    std::pop_heap(shares_.begin(), shares_.end(), std::greater<>{});
    Share& least = shares_.back();
    const LinkState& link = states_[least.link];
    const double share = link.waiting == 0 ? 0 : link.residual / static_cast<double>(link.waiting);
    if (share > least.rate) {  // it grew when slower flows were fixed elsewhere
      least.rate = share;
      std::push_heap(shares_.begin(), shares_.end(), std::greater<>{});
      continue;
    }
    shares_.pop_back();
    if (link.waiting > 0) {
      level = share > level * (1 + kSameRate) ? share : level;
      fix(link, level);
    }
  }
}

void FlowNetwork::fix(const LinkState& bottleneck, double rate) {
  check(rate > 0, "every flow under way has a rate");
  for (const FlowIndex index : bottleneck.flows) {
    Flow& flow = flows_[index];
    if (flow.is_fixed) {
      continue;
    }
    flow.is_fixed = true;
    flow.fair_rate = rate;
    for (const LinkIndex l : flow.route) {
      states_[l].residual -= rate;
      --states_[l].waiting;
    }
  }
}

void FlowNetwork::apply_rate(FlowIndex index) {
  Flow& flow = flows_[index];
  check(flow.is_fixed, "every flow has a link that limits it");
  if (std::abs(flow.fair_rate - flow.rate) <= kSameRate * flow.rate) {
    return;
  }
  flow.remaining = std::max(0.0, flow.remaining - flow.rate * static_cast<double>(now() - flow.changed));
  flow.changed = now();
  flow.rate = flow.fair_rate;
  departures_.set(index, now() + truncate(flow.remaining / flow.rate), flow.order);
}

void FlowNetwork::leave_due() {
  while (!departures_.empty() && departures_.next_time() <= now()) {
    leave(departures_.pop());
  }
}

void FlowNetwork::leave(FlowIndex index) {
  Flow& flow = flows_[index];
  const auto elapsed = static_cast<double>(now() - flow.changed);
  const double missing = flow.remaining - flow.rate * elapsed;  // of the nanosecond that is cut off
  check(missing <= flow.rate + 1e-9 * static_cast<double>(flow.bytes), "bytes sent = bytes received");
  for (const LinkIndex l : flow.route) {
    LinkState& link = states_[l];
    link.use.bytes += flow.bytes;
    if (--link.carried > 0) {
      mark_changed(l);
    } else {
      link.use.busy_ns += now() - link.since;
      link.flows.clear();
    }
  }
  flow.has_left = true;
  left_.push_back(index);
  const Time arrives = flow.changed + truncate(flow.latency_ns + flow.remaining / flow.rate);
  events().schedule(arrives - now(), flow.arrived);
  const Connection connection = flow.connection;  // the next flow may move the others
  start_next(connection);
}

void FlowNetwork::wake_next() {
  if (departures_.empty() || (wake_ != kNever && wake_ <= departures_.next_time())) {
    return;
  }
  wake_ = departures_.next_time();
  events().schedule(wake_ - now(), {this, kWake});
}

std::vector<LinkUse> FlowNetwork::link_use() const {
  std::vector<LinkUse> result(links().size());
  for (std::size_t i = 0; i < states_.size(); ++i) {
    const LinkState& link = states_[i];
    result[i] = link.use;
    double under_way = 0;
    for (const FlowIndex index : link.flows) {
      const Flow& flow = flows_[index];
      const double missing = flow.remaining - flow.rate * static_cast<double>(now() - flow.changed);
      under_way += flow.has_left ? 0 : static_cast<double>(flow.bytes) - std::max(0.0, missing);
    }
    result[i].bytes += static_cast<Bytes>(under_way);
    result[i].busy_ns += link.carried > 0 ? now() - link.since : 0;
  }
  return result;
}

}  // namespace astra
