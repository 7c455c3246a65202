#include "astra/network/queueing_network.h"

#include <string>

#include "check.h"
#include "transfers.h"

namespace {

using Times = std::vector<astra::Time>;

constexpr double kFifty = 50.0 * 1.073741824;  // bytes/ns of ASTRA-sim's 50 GB/s
constexpr astra::Bytes kMebibyte = 1 << 20;

// The links of 50 GB/s and 500 ns take 19531.25 + 500 ns for a MiB; each of the h links truncates.
void stores_and_forwards() {
  CHECK(Transfers(grid("aware", "Ring", 8, kFifty, 500)).at(0, 0, 3, kMebibyte).run() == Times{3 * 20031});
  CHECK(Transfers(grid("aware", "Switch", 8, kFifty, 500)).at(0, 0, 3, kMebibyte).run() == Times{2 * 20031});
  CHECK(Transfers(grid("aware", "FullyConnected", 8, kFifty, 500)).at(0, 0, 3, kMebibyte).run() == Times{20031});
}

// ASTRA-sim's own figure: the seventh message waits for six on the link down from the switch.
void queues_at_the_link_that_all_share() {
  Transfers transfers(grid("aware", "Switch", 8, kFifty, 500));
  for (astra::Rank rank = 1; rank < 8; ++rank) {
    transfers.at(0, rank, 0, kMebibyte);
  }
  const Times arrivals = transfers.run();
  CHECK(arrivals.front() == 2 * 20031);
  CHECK(arrivals.back() == 2 * 20031 + 6 * 19531);
}

// Opposite ranks of a ring of 4 go clockwise, so 0 -> 2 and 1 -> 2 share the link 1 -> 2 and 0 -> 3 is free.
void goes_clockwise_on_ties() {
  Transfers transfers(grid("aware", "Ring", 4, 1, 10));
  const Times arrivals = transfers.at(0, 1, 2, 100).at(0, 0, 2, 95).at(0, 0, 3, 95).run();
  // The second is at rank 1 at 105, when the link 1 -> 2 has been free since 100.
  CHECK((arrivals == Times{110, 210, 105}));
}

void serves_a_link_in_order_of_arrival() {
  Transfers transfers(grid("aware", "FullyConnected", 2, 2, 5));
  const Times arrivals = transfers.at(0, 0, 1, 100).at(10, 0, 1, 40).at(20, 0, 1, 3).run();
  // Busy 50 + 20 + floor(1.5) ns; each arrives 5 ns after it has left, the last after floor(5 + 1.5).
  CHECK((arrivals == Times{55, 75, 76}));
}

void works_where_astra_sim_aborts() {
  CHECK((Transfers(grid("aware", "Ring", 2, 4, 7)).at(0, 0, 1, 8).at(0, 1, 0, 1).run() == Times{9, 7}));
  // Ring of 3 by switches of 2; first the ring, then up and down the switch: 3 links of different speeds.
  const astra::NetworkConfig two{{"Ring", "Switch"}, {3, 2}, {2, 1}, {10, 30}, "aware", {}, false};
  CHECK(Transfers(two).at(0, 0, 5, 100).run() == Times{(10 + 50) + 2 * (30 + 100)});
}

void names_what_astra_sim_does() {
  const auto refused = [](astra::NetworkConfig config) {
    config.parity = true;
    config.refuses_time_zero = true;
    return refusal([&] { Transfers(config).at(0, 0, 1, 3).run(); });
  };
  CHECK(refused(grid("aware", "Ring", 2, 1, 1)) ==
        "network: ASTRA-sim's congestion-aware binary aborts on a Ring of 2 ranks");
  CHECK(refused({{"Ring", "Ring"}, {4, 4}, {1, 1}, {0, 0}, "aware", {}, false}) ==
        "network: ASTRA-sim's congestion-aware binary exits on more than one dimension, and this network has 2");
  CHECK(refused(grid("aware", "Ring", 4, 4, 1)).find("3 bytes occupies the link from device 0 to 1") !=
        std::string::npos);
  CHECK(refused(grid("aware", "Ring", 4, 3, 1)).empty());
  CHECK(refused(grid("unaware", "Ring", 2, 1, 1)).empty());
}

void counts_bytes_and_busy_time() {
  Transfers transfers(fabric("aware", 3, 0, {{0, 1, 2, 5}, {1, 2, 1, 5}, {2, 0, 1, 0}}));
  transfers.at(0, 0, 2, 100).at(0, 0, 1, 20);
  transfers.run_until(55);
  auto use = transfers.network().link_use();
  CHECK(use[0].bytes == 100 && use[0].busy_ns == 55 && use[1].bytes == 0 && use[1].busy_ns == 0);
  transfers.run_until(65);
  use = transfers.network().link_use();
  CHECK(use[0].bytes == 120 && use[0].busy_ns == 60 && use[1].busy_ns == 10);
  transfers.run();
  use = transfers.network().link_use();
  CHECK(use[1].bytes == 100 && use[1].busy_ns == 100 && use[2].bytes == 0 && use[2].busy_ns == 0);
}

void knows_a_lone_delay_only() {
  astra::EventQueue events;
  const auto network = astra::make_network(grid("aware", "Ring", 8, kFifty, 500), events);
  CHECK(network->lone_delay(0, 6, kMebibyte) == 2 * 20031);
  CHECK(!network->fixed_delay(0, 1, 1).has_value() && !network->are_alike(0, 1, 1, 2));
}

void numbers_only_links_that_are_used() {
  Transfers transfers(grid("aware", "FullyConnected", 2048, 1, 0));
  transfers.at(0, 5, 2000, 10).at(0, 2000, 5, 10).at(0, 5, 2000, 10).run();
  CHECK(transfers.network().links().size() == 2);
  CHECK(transfers.network().links()[0].from == 5 && transfers.network().links()[0].to == 2000);
  CHECK(transfers.network().link_use()[0].bytes == 20);
}

}  // namespace

Tests queueing_network_tests() {
  return {
      {"a message crosses link after link, whole", stores_and_forwards},
      {"messages to one rank queue at its link, as ASTRA-sim prints", queues_at_the_link_that_all_share},
      {"the way round a ring is clockwise on ties", goes_clockwise_on_ties},
      {"a link serves in order of arrival and is free before its message arrives", serves_a_link_in_order_of_arrival},
      {"several dimensions, rings of 2 and instant messages work", works_where_astra_sim_aborts},
      {"in parity what makes ASTRA-sim abort is refused by name", names_what_astra_sim_does},
      {"links count their bytes and busy time", counts_bytes_and_busy_time},
      {"with queues only the delay of a lone message is known", knows_a_lone_delay_only},
      {"a full mesh of 2,048 ranks numbers only the links in use", numbers_only_links_that_are_used},
  };
}
