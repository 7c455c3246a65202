#include "astra/network/max_min_flows.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"

namespace astra {
namespace {

// Rates this close are one rate that was computed in two ways; results must not depend on which way it was.
constexpr double kSameRate = 1e-12;

}  // namespace

void MaxMinFlows::start(const Request& request) {
  const FlowIndex index = flows_.take();
  Flow& flow = flows_[index];
  flow.request = request;
  flow.remaining = static_cast<double>(request.bytes);
  flow.changed = now();
  flow.order = next_order_++;
  for (const LinkIndex l : request.route) {
    LinkState& link = states_[l];
    link.flows.push_back(index);
    if (link.carried++ == 0) {
      link.since = now();
    }
    mark_changed(l);
  }
}

void MaxMinFlows::mark_changed(LinkIndex link) {
  if (!states_[link].is_changed) {
    states_[link].is_changed = true;
    changed_.push_back(link);
  }
  if (!is_solving_) {
    is_solving_ = true;
    events_.schedule(0, {this, kSolve});  // after what else happens at this instant
  }
}

void MaxMinFlows::fire(std::uint32_t code, std::uint64_t) {
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

void MaxMinFlows::solve() {
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
void MaxMinFlows::gather(LinkIndex seed) {
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
      for (const LinkIndex link : flow.request.route) {
        visit(link);
      }
      const Spread* spread = flow.request.spread;
      for (std::size_t place = 0; spread != nullptr && place < spread->load.size(); ++place) {
        LinkState& link = states_[flow.request.route[place]];
        ++link.spread;
        link.spread_load += spread->load[place];
      }
    }
  }
}

void MaxMinFlows::visit(LinkIndex index) {
  LinkState& link = states_[index];
  if (link.solution == solution_) {
    return;
  }
  link.solution = solution_;
  link.spread = 0;
  link.spread_load = 0;
  component_links_.push_back(index);
  if (link.is_changed) {
    link.is_changed = false;
    std::erase_if(link.flows, [this](FlowIndex flow) { return flows_[flow].has_left; });
  }
  check(link.flows.size() == link.carried, "a link lists the flows that it carries");
}

// Progressive filling: all rates grow together until a link is full; its flows keep that rate, the others grow on.
void MaxMinFlows::fill() {
  shares_.clear();
  for (const LinkIndex index : component_links_) {
    LinkState& link = states_[index];
    link.residual = link.bandwidth;
    link.waiting = link.carried;
    if (link.waiting > 0) {
      shares_.push_back({link.bandwidth / link.load(), index});
    }
  }
  std::make_heap(shares_.begin(), shares_.end(), std::greater<>{});
  double level = 0;
  while (!shares_.empty()) {
    std::pop_heap(shares_.begin(), shares_.end(), std::greater<>{});
    Share& least = shares_.back();
    const LinkState& link = states_[least.link];
    const double share = link.waiting == 0 ? 0 : link.residual / link.load();
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

void MaxMinFlows::fix(const LinkState& bottleneck, double rate) {
  check(rate > 0, "every flow under way has a rate");
  for (const FlowIndex index : bottleneck.flows) {
    Flow& flow = flows_[index];
    if (flow.is_fixed) {
      continue;
    }
    flow.is_fixed = true;
    flow.fair_rate = rate;
    take(flow, rate);
  }
}

// Takes what a flow has of its links from what the others may have.
void MaxMinFlows::take(const Flow& flow, double rate) {
  const Spread* spread = flow.request.spread;
  if (spread == nullptr) {
    for (const LinkIndex l : flow.request.route) {
      states_[l].residual -= rate;
      --states_[l].waiting;
    }
    return;
  }
  for (std::size_t place = 0; place < spread->load.size(); ++place) {
    LinkState& link = states_[flow.request.route[place]];
    link.residual -= rate * spread->load[place];
    link.spread_load -= spread->load[place];
    --link.spread;
    --link.waiting;
  }
}

void MaxMinFlows::apply_rate(FlowIndex index) {
  Flow& flow = flows_[index];
  check(flow.is_fixed, "every flow has a link that limits it");
  if (std::abs(flow.fair_rate - flow.rate) <= kSameRate * flow.rate) {
    return;
  }
  flow.remaining = std::max(0.0, flow.remaining - flow.rate * static_cast<double>(now() - flow.changed));
  flow.changed = now();
  flow.rate = flow.fair_rate;
  departures_.set(index, now() + truncate(flow.remaining / flow.rate + rounding_), flow.order);
}

void MaxMinFlows::leave_due() {
  while (!departures_.empty() && departures_.next_time() <= now()) {
    leave(departures_.pop());
  }
}

void MaxMinFlows::leave(FlowIndex index) {
  Flow& flow = flows_[index];
  const auto elapsed = static_cast<double>(now() - flow.changed);
  const double missing = flow.remaining - flow.rate * elapsed;  // of the nanosecond that is cut off
  const Request& request = flow.request;
  check(missing <= flow.rate + 1e-9 * static_cast<double>(request.bytes), "bytes sent = bytes received");
  for (std::size_t place = 0; place < request.route.size(); ++place) {
    const LinkIndex l = request.route[place];
    LinkState& link = states_[l];
    link.use.bytes += request.spread == nullptr
                          ? request.bytes
                          : std::llround(request.spread->bytes[place] * static_cast<double>(request.bytes));
    if (--link.carried > 0) {
      mark_changed(l);
    } else {
      link.use.busy_ns += now() - link.since;
      link.flows.clear();
    }
  }
  flow.has_left = true;
  left_.push_back(index);
  const Time arrives = flow.changed + truncate(request.latency_ns + flow.remaining / flow.rate + rounding_);
  events_.schedule(arrives - now(), request.arrived);
  const Call left = request.left;  // may start the next flow, which moves the others
  left();
}

void MaxMinFlows::wake_next() {
  if (departures_.empty() || (wake_ != kNever && wake_ <= departures_.next_time())) {
    return;
  }
  wake_ = departures_.next_time();
  events_.schedule(wake_ - now(), {this, kWake});
}

// Bytes so far of a flow that is under way.
double MaxMinFlows::sent(const Flow& flow) const {
  const double missing = flow.remaining - flow.rate * static_cast<double>(now() - flow.changed);
  return static_cast<double>(flow.request.bytes) - std::max(0.0, missing);
}

std::vector<LinkUse> MaxMinFlows::use() const {
  std::vector<LinkUse> result(states_.size());
  for (std::size_t i = 0; i < states_.size(); ++i) {
    const LinkState& link = states_[i];
    result[i] = link.use;
    double under_way = 0;
    for (const FlowIndex index : link.flows) {
      const Flow& flow = flows_[index];
      const auto& route = flow.request.route;
      const auto place = static_cast<std::size_t>(std::find(route.begin(), route.end(), i) - route.begin());
      const double part = flow.request.spread == nullptr ? 1 : flow.request.spread->bytes[place];
      under_way += flow.has_left ? 0 : sent(flow) * part;
    }
    result[i].bytes += static_cast<Bytes>(under_way);
    result[i].busy_ns += link.carried > 0 ? now() - link.since : 0;
  }
  return result;
}

}  // namespace astra
