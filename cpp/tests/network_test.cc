#include "astra/network/network.h"

#include <string>

#include "astra/network/mailbox.h"
#include "check.h"
#include "transfers.h"

namespace {

using astra::EventQueue;
using astra::NetworkConfig;

NetworkConfig config(const char* topology, std::int64_t npus) {
  return grid("unaware", topology, npus, 50.0 * 1.073741824, 500);
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

// Ranks 0 and 7 of a ring of 4 (2 bytes/ns, 100 ns) by switches of 2 (1 byte/ns, 30 ns) are at (0, 0) and (3, 1).
void charges_every_dimension_but_in_parity() {
  EventQueue events;
  NetworkConfig two{{"Ring", "Switch"}, {4, 2}, {2, 1}, {100, 30}};
  CHECK(astra::make_network(two, events)->fixed_delay(0, 7, 1000) == 100 + 2 * 30 + 1000);
  CHECK(astra::make_network(two, events)->fixed_delay(0, 4, 1000) == 2 * 30 + 1000);
  CHECK(astra::make_network(two, events)->are_alike(0, 7, 3, 4));
  CHECK(!astra::make_network(two, events)->are_alike(0, 7, 0, 6));
  two.parity = true;
  CHECK(astra::make_network(two, events)->fixed_delay(0, 7, 1000) == 100 + 500);
  CHECK(astra::make_network(two, events)->are_alike(0, 7, 0, 3));
}

// Rank 0 - switch 2 - rank 1, the first link fast and far, the second slow and near.
void charges_a_fabric_for_its_narrowest_link() {
  EventQueue events;
  const auto network = astra::make_network(
      fabric("unaware", 2, 1, {{0, 2, 10, 70.5}, {2, 1, 4, 20.25}, {1, 2, 4, 20.25}, {2, 0, 10, 70.5}}), events);
  CHECK(network->fixed_delay(0, 1, 1001) == 341);  // 90.75 + 250.25
  CHECK(network->lone_delay(1, 0, 1001) == 341);
  CHECK(!network->are_alike(0, 1, 1, 0));  // the same links in another order
  CHECK(network->are_alike(0, 1, 0, 1));
}

void reaches_memories_of_a_fabric() {
  EventQueue events;
  NetworkConfig with_memory = fabric("unaware", 2, 0, {{0, 2, 5, 1}, {1, 2, 5, 1}});
  with_memory.fabric.endpoints = 1;
  const auto network = astra::make_network(with_memory, events);
  CHECK(network->npus() == 2 && network->endpoints() == 3);
  CHECK(network->fixed_delay(1, 2, 50) == 11);
}

// Two ranks with two switches between them: the hash of a pair chooses one and always the same.
void spreads_pairs_over_equally_short_paths() {
  constexpr std::int32_t kRanks = 32;
  std::vector<astra::Link> links;
  for (std::int32_t rank = 0; rank < kRanks; ++rank) {
    for (const std::int32_t middle : {kRanks, kRanks + 1}) {
      links.push_back({rank, middle, 1, middle == kRanks ? 100.0 : 200.0});
      links.push_back({middle, rank, 1, 0});
    }
  }
  EventQueue events;
  const auto network = astra::make_network(fabric("unaware", kRanks, 2, links), events);
  const auto again = astra::make_network(fabric("unaware", kRanks, 2, links), events);
  int first = 0;
  for (std::int32_t to = 1; to < kRanks; ++to) {
    first += network->fixed_delay(0, to, 1) == 101 ? 1 : 0;
    CHECK(network->fixed_delay(0, to, 1) == again->fixed_delay(0, to, 1));
  }
  CHECK(first > 7 && first < 24);  // of 31: a fair coin is outside once in 700 times, and this one is fixed
}

void asks_for_a_route_once_per_pair() {
  NetworkConfig detour = fabric("unaware", 3, 0, {{0, 1, 1, 5}, {1, 2, 1, 5}, {0, 2, 1, 5}});
  int asked = 0;
  detour.fabric.route = [&asked](std::int32_t, std::int32_t) {
    ++asked;
    return std::vector<std::int32_t>{0, 1};
  };
  EventQueue events;
  const auto network = astra::make_network(detour, events);
  CHECK(network->fixed_delay(0, 2, 7) == 17 && network->fixed_delay(0, 2, 9) == 19 && asked == 1);
}

void says_why_a_route_is_broken() {
  NetworkConfig broken = fabric("flow", 3, 1, {{0, 1, 1, 0}, {1, 0, 1, 0}, {1, 3, 1, 0}});
  std::vector<std::int32_t> answer;
  broken.fabric.route = [&answer](std::int32_t, std::int32_t) { return answer; };
  const auto refused = [&](std::vector<std::int32_t> route) {
    answer = std::move(route);
    EventQueue events;
    return refusal([&] { astra::make_network(broken, events)->lone_delay(0, 2, 1); });
  };
  CHECK(refused({}) == "network: the route from rank 0 to rank 2 is empty");
  CHECK(refused({0}) == "network: the route from rank 0 to rank 2 ends at rank 1");
  CHECK(refused({0, 2}) == "network: the route from rank 0 to rank 2 ends at switch 0 (device 3)");
  CHECK(refused({1}) ==
        "network: the route from rank 0 to rank 2 is at rank 0 when it takes link 1, which leaves rank 1");
  CHECK(refused({0, 3}) == "network: the route from rank 0 to rank 2 has link 3; there are links 0 to 2");
  broken.fabric.route = nullptr;
  EventQueue events;
  CHECK(refusal([&] { astra::make_network(broken, events)->lone_delay(0, 2, 1); }) ==
        "network: no links lead from rank 0 to rank 2");
}

void refuses_a_route_in_circles() {
  NetworkConfig circle = fabric("flow", 3, 0, {{0, 1, 1, 0}, {1, 0, 1, 0}, {1, 2, 1, 0}});
  circle.fabric.route = [](std::int32_t, std::int32_t) { return std::vector<std::int32_t>{0, 1, 0, 2}; };
  EventQueue events;
  CHECK(refusal([&] { astra::make_network(circle, events)->lone_delay(0, 2, 1); }) ==
        "network: the route from rank 0 to rank 2 takes link 0 twice");
}

void pairs_by_key_and_order() {
  EventQueue events;
  const auto network = astra::make_network(config("Ring", 4), events);
  astra::Mailbox mailbox(events, *network, false);
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
  astra::Mailbox mailbox(events, *network, false);
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
  const auto refused = [](const NetworkConfig& wrong) {
    EventQueue events;
    return refusal([&] { astra::make_network(wrong, events); });
  };
  CHECK(refused({{}, {}, {}, {}}) == "network: npus_count is empty; it needs the number of ranks along each dimension");
  CHECK(refused({{"ring"}, {2}, {1}, {0}}) ==
        "network: topology 'ring' is not one of FullyConnected, Ring, Switch (did you mean 'Ring'?)");
  CHECK(refused({{"Torus"}, {2}, {1}, {0}}) == "network: topology 'Torus' is not one of FullyConnected, Ring, Switch");
  CHECK(refused({{"Ring"}, {0}, {1}, {0}}) == "network: npus_count must be between 1 and 2^24, not 0");
  CHECK(refused({{"Ring"}, {2}, {0}, {0}}) == "network: bandwidth must be positive, not 0.000000");
  CHECK(refused({{"Ring"}, {2}, {1}, {-1}}) == "network: latency must not be negative, not -1.000000");
  CHECK(refused({{"Ring"}, {2}, {1}, {}}).find("equal length, not 1, 1, 1 and 0") != std::string::npos);
  NetworkConfig flow = grid("flow", "Ring", 4, 1, 0);
  flow.parity = true;
  CHECK(refused(flow) ==
        "network: model 'flow' is none of ASTRA-sim's, whose oddities parity keeps; aware and unaware are");
  CHECK(refused(grid("awair", "Ring", 4, 1, 0)) ==
        "network: model 'awair' is not one of aware, flow, unaware (did you mean 'aware'?)");
}

void refuses_wrong_fabrics() {
  const auto refused = [](const NetworkConfig& wrong) {
    EventQueue events;
    return refusal([&] { astra::make_network(wrong, events); });
  };
  CHECK(refused(fabric("flow", 2, 1, {})) == "network: the fabric has no link");
  CHECK(refused(fabric("flow", 2, 1, {{0, 3, 1, 0}})) ==
        "network: link 0 names device 3; ranks, endpoints and switches are 0 to 2");
  CHECK(refused(fabric("flow", 2, 0, {{0, 1, 1, 0}, {1, -1, 1, 0}})) ==
        "network: link 1 names device -1; ranks, endpoints and switches are 0 to 1");
  CHECK(refused(fabric("flow", 2, 0, {{1, 1, 1, 0}})) == "network: link 0 leads from device 1 to itself");
  CHECK(refused(fabric("flow", 2, 0, {{0, 1, 0, 0}})) ==
        "network: of link 0, bandwidth must be positive, not 0.000000");
  CHECK(refused(fabric("flow", 2, -1, {{0, 1, 1, 0}})) ==
        "network: a fabric's endpoints and switches must be between 0 and 2^24, not -1");
  NetworkConfig both = fabric("flow", 2, 0, {{0, 1, 1, 0}});
  both.topology = {"Ring"};
  CHECK(refused(both) == "network: a fabric's links replace topology, bandwidth and latency_ns, which must be empty");
}

}  // namespace

Tests network_tests() {
  return {
      {"a ring takes the shorter way, a switch two links, a full mesh one", counts_hops},
      {"a delay is truncated once per message", truncates_the_delay_once},
      {"a message is charged for all dimensions it crosses, in parity for the innermost alone",
       charges_every_dimension_but_in_parity},
      {"on a fabric latencies add up and the narrowest link counts", charges_a_fabric_for_its_narrowest_link},
      {"endpoints of memories send and receive besides the ranks", reaches_memories_of_a_fabric},
      {"equally short paths are chosen by a hash of the pair", spreads_pairs_over_equally_short_paths},
      {"a route of the user's is asked for once per pair", asks_for_a_route_once_per_pair},
      {"a broken route is refused, naming the devices", says_why_a_route_is_broken},
      {"a route that takes a link twice is refused", refuses_a_route_in_circles},
      {"the i-th send of a key meets its i-th receive, other sizes never", pairs_by_key_and_order},
      {"a late receive is served in an event of its own", delivers_to_late_receivers},
      {"wrong networks are refused, naming what was meant", refuses_wrong_configurations},
      {"wrong fabrics are refused, naming the link", refuses_wrong_fabrics},
  };
}
