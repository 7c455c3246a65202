// Moves bytes between ranks.
#pragma once

#include <memory>
#include <optional>

#include "astra/base/types.h"
#include "astra/event/event_queue.h"
#include "astra/network/config.h"

namespace astra {

class Network {
 public:
  virtual ~Network() = default;
  // Ranks attached.
  virtual std::int64_t npus() const = 0;
  // Starts a transfer now; `arrived` is called at its arrival.
  virtual void send(Rank from, Rank to, Bytes bytes, Call arrived) = 0;
  // What every transfer of that size between the two takes whatever else is under way; nothing if that depends on
  // other traffic.
  virtual std::optional<Time> fixed_delay(Rank from, Rank to, Bytes bytes) const = 0;
  // Whether transfers of any one size from `a` to `b` and from `c` to `d` always take equally long.
  virtual bool are_alike(Rank a, Rank b, Rank c, Rank d) const = 0;
};

// Raises std::invalid_argument on a network that no model here supports.
std::unique_ptr<Network> make_network(const NetworkConfig& config, EventQueue& events);

}  // namespace astra
