// Flows that share links max-min fair.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "astra/base/slots.h"
#include "astra/event/event_queue.h"
#include "astra/network/departures.h"
#include "astra/network/network.h"
#include "astra/network/route_cache.h"

namespace astra {

// Of a flow that is spread over some of its links: what each link of its route has to do with it.
struct Spread {
  std::vector<double> bytes;  // part of the flow's bytes that cross the link
  std::vector<double> load;   // bandwidth that the link gives per unit of the flow's rate
};

// A flow runs over all links of its route at once, at one rate. Rates are max-min fair: none can grow without making
// that of a slower or equally fast flow smaller (Bertsekas and Gallager, Data Networks, 6.5.2). They change when flows
// start and end, and only for flows that share links with those, directly or through others. What starts and ends at
// one instant takes effect together. A flow leaves its links at the nanosecond in which its last byte does, and arrives
// the latency of its route later.
//
// A flow with a `Spread` takes other parts of its links' bandwidths than its rate; these remain the rates that are fair
// (Radunovic and Le Boudec, A Unified Framework for Max-Min and Min-Max Fairness With Applications, 2007).
class MaxMinFlows final : public EventTarget {
 public:
  struct Request {
    std::span<const LinkIndex> route;  // not empty; valid while the flow is under way, like `spread`
    const Spread* spread = nullptr;    // none: every link has all of the flow
    double latency_ns = 0;
    Bytes bytes = 0;
    Call left;     // called, not scheduled, when it leaves its links
    Call arrived;  // scheduled
  };

  // Ends that are `rounding` ns before a whole nanosecond count as there. Raised where rates are sums whose order shows
  // in the last digits.
  explicit MaxMinFlows(EventQueue& events, double rounding = 0) : events_(events), rounding_(rounding) {}
  MaxMinFlows(const MaxMinFlows&) = delete;
  MaxMinFlows& operator=(const MaxMinFlows&) = delete;

  std::size_t num_links() const { return states_.size(); }
  // Numbered from 0.
  void add_link(double bandwidth) { states_.emplace_back().bandwidth = bandwidth; }
  void start(const Request& request);
  // Includes the bytes so far of flows that are still under way.
  std::vector<LinkUse> use() const;

  void fire(std::uint32_t code, std::uint64_t arg) override;

 private:
  enum Code : std::uint32_t { kSolve, kWake };
  using FlowIndex = std::uint32_t;

  struct Flow {
    Request request;
    double remaining = 0;  // bytes, when the rate last changed
    double rate = 0;       // bytes per nanosecond
    double fair_rate = 0;  // the rate to come, while a solution is sought
    Time changed = 0;
    std::uint64_t order = 0;
    std::uint64_t solution = 0;  // the latest that this flow is part of
    bool is_fixed = false;       // in that solution its rate is found
    bool has_left = false;
  };
  struct LinkState {
    double bandwidth = 0;
    std::vector<FlowIndex> flows;  // also those that left since the latest solution
    std::size_t carried = 0;       // how many have not left
    bool is_changed = false;
    std::uint64_t solution = 0;
    double residual = 0;      // bandwidth that no fixed flow has
    std::size_t waiting = 0;  // flows not fixed
    std::size_t spread = 0;   // of these, flows with a spread
    double spread_load = 0;   // of those, summed
    Time since = 0;           // when it last became busy
    LinkUse use;

    // Of the flows not fixed, per unit of their rate.
    double load() const { return static_cast<double>(waiting - spread) + spread_load; }
  };
  struct Share {
    double rate;
    LinkIndex link;
    bool operator>(const Share& other) const { return rate != other.rate ? rate > other.rate : link > other.link; }
  };

  Time now() const { return events_.now(); }
  void mark_changed(LinkIndex link);
  void solve();
  void gather(LinkIndex seed);
  void visit(LinkIndex link);
  void fill();
  void fix(const LinkState& bottleneck, double rate);
  void take(const Flow& flow, double rate);
  void apply_rate(FlowIndex flow);
  void leave_due();
  void leave(FlowIndex flow);
  void wake_next();
  double sent(const Flow& flow) const;

  EventQueue& events_;
  double rounding_;
  std::vector<LinkState> states_;
  Slots<Flow> flows_;
  Departures departures_;
  std::uint64_t next_order_ = 0;
  std::vector<LinkIndex> changed_;  // links on which a flow started or ended since the latest solution
  bool is_solving_ = false;         // a solution is scheduled
  std::uint64_t solution_ = 0;
  std::vector<FlowIndex> left_;  // flows whose places are free once no link lists them
  std::vector<LinkIndex> component_links_;
  std::vector<FlowIndex> component_flows_;
  std::vector<Share> shares_;
  Time wake_ = kNever;  // of the next event that lets flows leave
  static constexpr Time kNever = -1;
};

}  // namespace astra
