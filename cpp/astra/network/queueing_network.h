// ASTRA-sim's congestion-aware network: a link carries one message at a time, whole, and others wait in order.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "astra/base/slots.h"
#include "astra/network/routed_network.h"

namespace astra {

// Store and forward: a message is offered to the next link of its route when all of it has arrived. On a link it takes
// floor(latency + bytes / bandwidth); the link is free again after floor(bytes / bandwidth).
class QueueingNetwork final : public RoutedNetwork, public EventTarget {
 public:
  // `refuses_aborts`: raise std::invalid_argument where ASTRA-sim aborts.
  QueueingNetwork(std::unique_ptr<Topology> topology, EventQueue& events, bool refuses_aborts);

  using Network::send;
  void send(Rank from, Rank to, Bytes bytes, Call arrived, Channel) override;
  Time lone_delay(Rank from, Rank to, Bytes bytes) const override;
  // Of messages that have left their links, and of the time that links have been busy.
  std::vector<LinkUse> link_use() const override;

  void fire(std::uint32_t code, std::uint64_t arg) override;

 private:
  enum Code : std::uint32_t { kArrived, kFree };
  static constexpr std::uint32_t kNone = 0xffffffff;

  struct Message {
    std::span<const LinkIndex> ahead;  // links not yet crossed; the first is crossed or waited for
    Bytes bytes = 0;
    Call arrived;
    std::uint32_t behind = kNone;  // the next message in the queue of the link
  };
  struct LinkState {
    double bandwidth = 0;
    double latency_ns = 0;
    bool is_busy = false;
    std::uint32_t first = kNone;  // of those that wait
    std::uint32_t last = kNone;
    Bytes carrying = 0;
    Time since = 0;
    LinkUse use;
  };

  void offer(std::uint32_t message);
  void start(LinkIndex link, std::uint32_t message);
  void free(LinkIndex link);
  void refuse_abort(LinkIndex link, Bytes bytes) const;

  std::vector<LinkState> states_;
  Slots<Message> messages_;
  bool refuses_aborts_;
};

}  // namespace astra
