// Messages as fluids that share links max-min fair.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "astra/base/flat_map.h"
#include "astra/base/slots.h"
#include "astra/network/departures.h"
#include "astra/network/routed_network.h"

namespace astra {

// A message flows over all links of its route at once, at one rate. Rates are max-min fair: none can grow without
// making that of a slower or equally fast flow smaller (Bertsekas and Gallager, Data Networks, 6.5.2). They change when
// flows start and end, and only for flows that share links with those, directly or through others. What starts and ends
// at one instant takes effect together. A flow leaves its links at the nanosecond in which its last byte does, and
// arrives the latencies of its links later. Messages of one channel between the same two go one after another, as on a
// connection of NCCL.
class FlowNetwork final : public RoutedNetwork, public EventTarget {
 public:
  FlowNetwork(std::unique_ptr<Topology> topology, EventQueue& events);

  using Network::send;
  void send(Rank from, Rank to, Bytes bytes, Call arrived, Channel channel) override;
  Time lone_delay(Rank from, Rank to, Bytes bytes) const override;
  // Includes the bytes so far of flows that are still under way.
  std::vector<LinkUse> link_use() const override;

  void fire(std::uint32_t code, std::uint64_t arg) override;

 private:
  enum Code : std::uint32_t { kSolve, kWake };
  using FlowIndex = std::uint32_t;
  static constexpr std::uint32_t kNobody = 0xffffffff;

  // A message that waits for those before it on its connection.
  struct Waiting {
    Bytes bytes = 0;
    Call arrived;
    std::uint32_t next = kNobody;
  };
  // A channel between two ranks.
  struct Connection {
    Channel channel = 0;
    Rank from = 0;
    Rank to = 0;
    bool operator==(const Connection&) const = default;
  };
  struct ConnectionHash {
    std::size_t operator()(const Connection& connection) const;
  };
  // Of a connection with a message under way.
  struct Queue {
    std::uint32_t first = kNobody;
    std::uint32_t last = kNobody;
  };

  struct Flow {
    Connection connection;
    std::span<const LinkIndex> route;
    double latency_ns = 0;
    Bytes bytes = 0;
    double remaining = 0;  // bytes, when the rate last changed
    double rate = 0;       // bytes per nanosecond
    double fair_rate = 0;  // the rate to come, while a solution is sought
    Time changed = 0;
    std::uint64_t order = 0;
    std::uint64_t solution = 0;  // the latest that this flow is part of
    bool is_fixed = false;       // in that solution its rate is found
    bool has_left = false;
    Call arrived;
  };
  struct LinkState {
    double bandwidth = 0;
    std::vector<FlowIndex> flows;  // also those that left since the latest solution
    std::size_t carried = 0;       // how many have not left
    bool is_changed = false;
    std::uint64_t solution = 0;
    double residual = 0;      // bandwidth that no fixed flow has
    std::size_t waiting = 0;  // flows not fixed
    Time since = 0;           // when it last became busy
    LinkUse use;
  };
  struct Share {
    double rate;
    LinkIndex link;
    bool operator>(const Share& other) const { return rate != other.rate ? rate > other.rate : link > other.link; }
  };

  void start(const Connection& connection, Bytes bytes, Call arrived);
  void start_next(const Connection& connection);
  void number_links();
  void mark_changed(LinkIndex link);
  void solve();
  void gather(LinkIndex seed);
  void visit(LinkIndex link);
  void fill();
  void fix(const LinkState& bottleneck, double rate);
  void apply_rate(FlowIndex flow);
  void leave_due();
  void leave(FlowIndex flow);
  void wake_next();

  std::vector<LinkState> states_;
  Slots<Flow> flows_;
  FlatMap<Connection, Queue, ConnectionHash> queues_;
  Slots<Waiting> waiting_;
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
