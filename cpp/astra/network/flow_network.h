// Messages as fluids that share links max-min fair.
#pragma once

#include <memory>
#include <vector>

#include "astra/base/flat_map.h"
#include "astra/base/slots.h"
#include "astra/network/max_min_flows.h"
#include "astra/network/routed_network.h"

namespace astra {

// A message is a flow over its route (`MaxMinFlows`). Messages of one channel between the same two go one after
// another, as on a connection of NCCL.
class FlowNetwork final : public RoutedNetwork, public EventTarget {
 public:
  FlowNetwork(std::unique_ptr<Topology> topology, EventQueue& events);

  using Network::send;
  void send(Rank from, Rank to, Bytes bytes, Call arrived, Channel channel) override;
  Time lone_delay(Rank from, Rank to, Bytes bytes) const override;
  // Includes the bytes so far of flows that are still under way.
  std::vector<LinkUse> link_use() const override;

  // A message of a connection, which is a place in `under_way_`, has left its links.
  void fire(std::uint32_t code, std::uint64_t arg) override;

 private:
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

  void start(const Connection& connection, Bytes bytes, Call arrived);
  void start_next(const Connection& connection);

  MaxMinFlows flows_;
  FlatMap<Connection, Queue, ConnectionHash> queues_;
  Slots<Connection> under_way_;
  Slots<Waiting> waiting_;
};

}  // namespace astra
