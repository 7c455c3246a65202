#include "astra/network/network.h"

#include <string>

#include "astra/network/mailbox.h"
#include "check.h"

namespace {

using astra::EventQueue;
using astra::NetworkConfig;

NetworkConfig config(const char* topology, std::int64_t npus) {
  return {{topology}, {npus}, {50.0 * 1.073741824}, {500}};
}

class Log final : public astra::EventTarget {
 public:
  void fire(std::uint32_t code, std::uint64_t) override { seen += static_cast<char>(code); }
  astra::Call call(char letter) { return {this, static_cast<std::uint32_t>(letter), 0}; }
  std::string seen;
};

void counts_hops() {
  EventQueue events;
  CHECK(astra::make_network(config("Ring", 8), events)->fixed_delay(0, 3, 1) == 1500);
  CHECK(astra::make_network(config("Ring", 8), events)->fixed_delay(0, 6, 1) == 1000);
  CHECK(astra::make_network(config("FullyConnected", 8), events)->fixed_delay(0, 3, 1) == 500);
  CHECK(astra::make_network(config("Switch", 8), events)->fixed_delay(0, 3, 1) == 1000);
}

void truncates_the_delay_once() {
  EventQueue events;
  // 16384 / 53.6870912 = 305.2
  CHECK(astra::make_network(config("Ring", 4), events)->fixed_delay(0, 1, 16384) == 805);
}

void pairs_by_key_and_order() {
  EventQueue events;
  const auto network = astra::make_network(config("Ring", 4), events);
  astra::Mailbox mailbox(events, *network);
  Log log;
  mailbox.receive({7, 0, 1, 100}, log.call('1'));
  mailbox.receive({7, 0, 1, 100}, log.call('2'));
  mailbox.receive({7, 0, 1, 101}, log.call('x'));
  mailbox.send({7, 0, 1, 100}, log.call('a'));
  mailbox.send({7, 0, 1, 100}, log.call('b'));
  while (!events.empty()) events.fire_next();
  CHECK(log.seen == "a1b2");
}

void delivers_to_late_receivers() {
  EventQueue events;
  const auto network = astra::make_network(config("Ring", 4), events);
  astra::Mailbox mailbox(events, *network);
  Log log;
  mailbox.send({7, 0, 1, 100}, log.call('a'));
  events.fire_next();
  CHECK(log.seen == "a");
  mailbox.receive({7, 0, 1, 100}, log.call('1'));
  CHECK(log.seen == "a");
  events.fire_next();
  CHECK(log.seen == "a1" && events.now() == 501);
}

void refuses_wrong_configurations() {
  EventQueue events;
  CHECK_THROWS(astra::make_network({{"Ring", "Ring"}, {2, 2}, {1, 1}, {0, 0}}, events), std::invalid_argument);
  CHECK_THROWS(astra::make_network({{"Torus"}, {2}, {1}, {0}}, events), std::invalid_argument);
  CHECK_THROWS(astra::make_network({{"Ring"}, {2}, {0}, {0}}, events), std::invalid_argument);
  CHECK_THROWS(astra::make_network({{"Ring"}, {2}, {1}, {}}, events), std::invalid_argument);
}

}  // namespace

Tests network_tests() {
  return {
      {"a ring takes the shorter way, a switch two links, a full mesh one", counts_hops},
      {"a delay is truncated once per message", truncates_the_delay_once},
      {"the i-th send of a key meets its i-th receive, other sizes never", pairs_by_key_and_order},
      {"a late receive is served in an event of its own", delivers_to_late_receivers},
      {"wrong networks are refused", refuses_wrong_configurations},
  };
}
