// Moves bytes between ranks.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "astra/base/types.h"
#include "astra/event/event_queue.h"
#include "astra/network/config.h"

namespace astra {

// What a link carried so far.
struct LinkUse {
  Bytes bytes = 0;
  Time busy_ns = 0;  // while at least one message was on it
};

// Whose messages keep their order.
using Channel = std::uint64_t;

class Network {
 public:
  virtual ~Network() = default;
  // Ranks attached.
  virtual std::int64_t npus() const = 0;
  // Ranks along each dimension, the innermost first; their product is `npus`.
  virtual const std::vector<std::int64_t>& shape() const = 0;
  // Ranks and endpoints of memories: who may send and receive.
  virtual std::int64_t endpoints() const { return npus(); }
  // Starts a transfer now; `arrived` is called at its arrival. Transfers of one channel between the same two go in
  // order, where they would share a link; those of channel 0 stand by themselves.
  virtual void send(Rank from, Rank to, Bytes bytes, Call arrived, Channel channel) = 0;
  void send(Rank from, Rank to, Bytes bytes, Call arrived) { send(from, to, bytes, arrived, 0); }
  // What every transfer of that size between the two takes whatever else is under way; nothing if that depends on
  // other traffic.
  virtual std::optional<Time> fixed_delay(Rank from, Rank to, Bytes bytes) const = 0;
  // What a transfer takes that is alone.
  virtual Time lone_delay(Rank from, Rank to, Bytes bytes) const = 0;
  // Whether transfers of any one size from `a` to `b` and from `c` to `d` always take equally long.
  virtual bool are_alike(Rank a, Rank b, Rank c, Rank d) const = 0;
  // A fabric's in its own order; of a grid those that a message has crossed so far, in the order of first use.
  virtual const std::vector<Link>& links() const = 0;
  // Per link, in that order; empty where messages do not occupy links.
  virtual std::vector<LinkUse> link_use() const { return {}; }
};

// Raises std::invalid_argument on a network that no model here supports.
std::unique_ptr<Network> make_network(const NetworkConfig& config, EventQueue& events);

}  // namespace astra
