#include "astra/network/flow_network.h"

#include <algorithm>
#include <random>

#include "check.h"
#include "transfers.h"

namespace {

using astra::Link;
using Times = std::vector<astra::Time>;

// Ranks in a row with links to the right, of these bandwidths in bytes/ns.
astra::NetworkConfig chain(const std::vector<double>& bandwidths, double latency_ns = 0) {
  std::vector<Link> links;
  for (std::size_t i = 0; i < bandwidths.size(); ++i) {
    const auto rank = static_cast<std::int32_t>(i);
    links.push_back({rank, rank + 1, bandwidths[i], latency_ns});
  }
  return fabric("flow", static_cast<std::int64_t>(bandwidths.size()) + 1, 0, links);
}

void times_a_lone_flow_like_no_congestion() {
  for (const char* topology : {"Ring", "Switch", "FullyConnected"}) {
    for (const astra::Bytes bytes : {1, 3, 16384, 1048577}) {
      const astra::NetworkConfig config{{topology, "Ring"}, {4, 3}, {53.6870912, 7.7}, {0.1, 0.7}, "flow", {}, false};
      astra::NetworkConfig unaware = config;
      unaware.model = "unaware";
      for (astra::Rank to = 1; to < 12; ++to) {
        const astra::Time expected = *Transfers(unaware).network().fixed_delay(0, to, bytes);
        CHECK(Transfers(config).at(0, 0, to, bytes).run() == Times{expected});
        CHECK(Transfers(config).at(977, 0, to, bytes).run() == Times{977 + expected});
        CHECK(Transfers(config).network().lone_delay(0, to, bytes) == expected);
      }
    }
  }
}

void halves_a_link_between_two() {
  // 10 bytes/ns: each of two equal flows gets 5.
  CHECK((Transfers(chain({10}, 3)).at(0, 0, 1, 1000).at(0, 0, 1, 1000).run() == Times{203, 203}));
}

void gives_what_a_departure_leaves() {
  // Both at 5 until the short one is through at 100; the other has 2500 left, at 10.
  CHECK((Transfers(chain({10})).at(0, 0, 1, 500).at(0, 0, 1, 3000).run() == Times{100, 350}));
}

void shares_with_what_starts_midway() {
  // Alone until 100 (1000 of 2000 bytes), then at 5: 200 ns more. The newcomer then has 500 left, at 10.
  CHECK((Transfers(chain({10})).at(0, 0, 1, 2000).at(100, 0, 1, 1500).run() == Times{300, 350}));
}

// Three links of 10, 10 and 4 bytes/ns; one flow over all, one over each.
void solves_the_chain() {
  Transfers transfers(chain({10, 10, 4}));
  transfers.at(0, 0, 3, 2000).at(0, 0, 1, 2400).at(0, 1, 2, 8000).at(0, 2, 3, 1200);
  // The third link is the narrowest: 2 each for the long flow and the last. The others get 10 - 2 = 8.
  // 300: the second flow is through (2400 / 8). Nothing changes: the long flow is limited by the third link.
  // 600: the last is through (1200 / 2). The long flow has 800 left and gets 4, the third flow (3200 left) 6.
  // 800: the long flow is through (800 / 4). The third has 2000 left and gets 10: through at 1000.
  CHECK((transfers.run() == Times{800, 300, 1000, 600}));
}

// Bertsekas and Gallager's kind of example: the bottlenecks are found one after the other.
void solves_bottlenecks_in_order() {
  Transfers transfers(chain({6, 12, 30}));
  // Link 0 carries a, b, c: 2 each. Link 1 carries c, d: d gets 10. Link 2 carries c, d, e: e gets 18.
  transfers.at(0, 0, 1, 2'000'000).at(0, 0, 1, 2'000'000).at(0, 0, 3, 2'000'000).at(0, 1, 3, 10'000'000);
  transfers.at(0, 2, 3, 18'000'000);
  transfers.run_until(1000);
  const auto use = transfers.network().link_use();
  CHECK(use[0].bytes == 6000 && use[1].bytes == 12000 && use[2].bytes == 30000);
  CHECK((transfers.run() == Times(5, 1'000'000)));
}

void leaves_others_alone() {
  // A flow of 10000 / 3 ns on a link of its own is not disturbed by 100 others that come and go elsewhere.
  Transfers transfers(grid("flow", "FullyConnected", 4, 3, 0.5));
  transfers.at(0, 0, 1, 10000);
  for (int i = 0; i < 100; ++i) transfers.at(7 * i, 2, 3, 5);
  CHECK(transfers.run()[0] == 3333);
  // Nor by 100 that share its first link, as the second limits it: 1000 / 0.1 is whole, and stays so.
  Transfers shared(chain({10, 0.1}));
  shared.at(0, 0, 2, 1000);
  for (int i = 0; i < 100; ++i) shared.at(7 * i, 0, 1, 5);
  CHECK(shared.run()[0] == 10000);
}

void shares_an_incast() {
  Transfers transfers(grid("flow", "Switch", 256, 255, 10));
  for (astra::Rank rank = 1; rank < 256; ++rank) transfers.at(0, rank, 0, 1000);
  CHECK((transfers.run() == Times(255, 1020)));
}

// n flows of 1, 2, ... n times the size on one link of 1 byte/ns: the k-th ends when n - k + 1 of each step have
// passed.
void ends_an_uneven_incast() {
  constexpr int kFlows = 256;
  constexpr astra::Bytes kSize = 1'000'000;
  Transfers transfers(grid("flow", "Switch", kFlows + 1, 1, 0));
  for (int k = 1; k <= kFlows; ++k) transfers.at(0, k, 0, k * kSize);
  const Times arrivals = transfers.run();
  astra::Time expected = 0;
  for (int k = 1; k <= kFlows; ++k) {
    expected += (kFlows - k + 1) * kSize;
    // Whoever leaves is early by less than 1 ns, which the others make up for.
    CHECK(std::abs(arrivals[static_cast<std::size_t>(k) - 1] - expected) <= kFlows);
  }
}

struct Message {
  astra::Time at;
  astra::Rank from;
  astra::Rank to;
  astra::Bytes bytes;
};

// Sizes and instants are round, so that many rates are equal and many times are whole but for rounding.
std::vector<Message> round_messages(std::mt19937& random) {
  std::vector<Message> messages;
  for (int i = 0; i < 40; ++i) {
    const auto from = static_cast<astra::Rank>(random() % 11);
    const auto to = static_cast<astra::Rank>((from + 1 + static_cast<astra::Rank>(random() % 10)) % 11);
    const auto bytes = static_cast<astra::Bytes>(840 * (1 + random() % 5));
    messages.push_back({static_cast<astra::Time>(random() % 4 * 420), from, to, bytes});
  }
  return messages;
}

Times arrivals_of(const std::vector<Message>& messages) {
  Transfers transfers(grid("flow", "Ring", 11, 1, 1.5));
  for (const Message& m : messages) transfers.at(m.at, m.from, m.to, m.bytes);
  return transfers.run();
}

void does_not_depend_on_the_order_of_starts() {
  std::mt19937 random(7);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<Message> messages = round_messages(random);
    const Times forwards = arrivals_of(messages);
    CHECK(std::count(forwards.begin(), forwards.end(), -1) == 0);
    std::reverse(messages.begin(), messages.end());
    Times backwards = arrivals_of(messages);
    std::reverse(backwards.begin(), backwards.end());
    CHECK(forwards == backwards);
  }
}

void ends_before_it_shares() {
  // The first flow's last byte leaves within nanosecond 333, when the second starts: it does not wait for it.
  CHECK((Transfers(chain({3})).at(0, 0, 1, 1000).at(333, 0, 1, 3000).run() == Times{333, 1333}));
}

void counts_bytes_under_way() {
  Transfers transfers(chain({10, 20}));
  transfers.at(0, 0, 2, 1000).at(50, 1, 2, 2000);
  transfers.run_until(80);
  auto use = transfers.network().link_use();
  CHECK(use[0].bytes == 800 && use[0].busy_ns == 80 && use[1].bytes == 800 + 300 && use[1].busy_ns == 80);
  transfers.run();  // the second flow has 1500 bytes left at 100, then goes at 20
  use = transfers.network().link_use();
  CHECK(use[0].bytes == 1000 && use[0].busy_ns == 100 && use[1].bytes == 3000 && use[1].busy_ns == 175);
}

void keeps_the_order_of_a_channel() {
  // Two of channel 1 take turns with their half; the one of channel 2 has the other half until it ends at 200.
  const Times times = Transfers(chain({10})).at(0, 0, 1, 500, 1).at(0, 0, 1, 1000, 1).at(0, 0, 1, 1000, 2).run();
  CHECK((times == Times{100, 250, 200}));
  CHECK((Transfers(chain({10}, 3)).at(0, 0, 1, 500, 1).at(10, 0, 1, 500, 1).run() == Times{53, 103}));
}

void delivers_to_itself_at_once() { CHECK(Transfers(chain({1})).at(5, 0, 0, 100).run() == Times{5}); }

}  // namespace

Tests flow_network_tests() {
  return {
      {"messages of one channel go one after another", keeps_the_order_of_a_channel},
      {"a lone flow takes what it takes without congestion, to the nanosecond", times_a_lone_flow_like_no_congestion},
      {"two flows halve a link", halves_a_link_between_two},
      {"those who stay share what a departure leaves", gives_what_a_departure_leaves},
      {"a flow that starts midway shares from then on", shares_with_what_starts_midway},
      {"a long flow and a short one on each of three links share as solved by hand", solves_the_chain},
      {"bottlenecks are found one after the other", solves_bottlenecks_in_order},
      {"flows whose rate stays are not disturbed by a nanosecond", leaves_others_alone},
      {"an incast of equal messages ends together", shares_an_incast},
      {"an incast of unequal messages ends one by one", ends_an_uneven_incast},
      {"the order of starts at an instant changes nothing", does_not_depend_on_the_order_of_starts},
      {"a flow that ends when another starts does not share with it", ends_before_it_shares},
      {"links count the bytes of flows that are under way", counts_bytes_under_way},
      {"a message to oneself arrives at once", delivers_to_itself_at_once},
  };
}
