#include "astra/simulation.h"

#include <thread>

#include "astra/base/errors.h"
#include "builder.h"
#include "check.h"

namespace {

using astra::Simulation;
using astra::Ticket;
using Tickets = std::vector<Ticket>;

// A timed graph (one lane, a chain) and one that needs events (two nodes at once), both of 10 ns.
astra::GraphSpec timed() {
  GraphBuilder graph(Classes{{0}});
  graph.comp(0, 10);
  return graph.spec();
}

astra::GraphSpec with_events() {
  GraphBuilder graph(Classes{{0}});
  graph.comp(0, 4);
  graph.comp(0, 6);
  return graph.spec();
}

void cuts_at_step_boundaries() {
  for (const astra::GraphSpec& spec : {timed(), with_events()}) {
    Simulation simulation(ring_network(2), {}, {});
    const astra::GraphId graph = simulation.add_graph(spec);
    std::vector<std::int64_t> durations;
    for (int step = 0; step < 5; ++step)
      durations.insert(durations.end(), spec.duration_ns.begin(), spec.duration_ns.end());
    const Ticket first = simulation.submit(graph, {durations.data(), 5}, {}, -1);
    const Ticket second = simulation.submit(graph, {}, {}, first);
    const Ticket third = simulation.submit(graph, {}, {}, second);
    CHECK(simulation.advance(20).empty());
    CHECK(simulation.cut(second) == 0);
    CHECK(simulation.step_ends(first) == std::vector<astra::Time>({10, 20}));
    CHECK(simulation.cut(first) == 2);
    CHECK(simulation.advance(1000) == Tickets{first} && simulation.now() == 20);
    CHECK(simulation.advance(1000) == Tickets{third} && simulation.now() == 30);
    CHECK(simulation.advance(1000).empty() && simulation.now() == 1000);
    CHECK_THROWS(simulation.step_ends(first), std::invalid_argument);
  }
}

void lists_who_is_stuck() {
  GraphBuilder graph(Classes{{0}, {1}});
  graph.comp(0, 5);
  graph.recv(1, 0, 64);
  Simulation simulation(ring_network(2), {}, {});
  simulation.submit(simulation.add_graph(graph.spec()), {}, {}, -1);
  try {
    simulation.advance(1000);
    CHECK(false);
  } catch (const astra::DeadlockError& error) {
    const std::string text = error.what();
    CHECK(text.find("rank 1, node 1 'n1' waits for 64 bytes with tag 0 from rank 0") != std::string::npos);
  }
}

void lives_in_many_threads() {
  std::vector<astra::Time> ends(4);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < ends.size(); ++i) {
    threads.emplace_back([&ends, i] {
      GraphBuilder graph(Classes{{0}, {1}, {2}, {3}});
      for (int rank = 0; rank < 4; ++rank) graph.all_reduce(rank, 65536);
      Simulation simulation(ring_network(4), {}, {});
      const astra::GraphId id = simulation.add_graph(graph.spec());
      for (int k = 0; k < 10; ++k) {
        simulation.submit(id, {}, {}, -1);
        simulation.advance(INT64_MAX / 2);
      }
      ends[i] = simulation.now();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const astra::Time end : ends) CHECK(end == 10 * (7 * 10 + 6 * 805));
}

void refuses_going_back() {
  Simulation simulation(ring_network(2), {}, {});
  simulation.advance(50);
  CHECK_THROWS(simulation.advance(49), std::invalid_argument);
  CHECK_THROWS(simulation.submit(0, {}, {}, -1), std::invalid_argument);
}

}  // namespace

Tests simulation_tests() {
  return {
      {"a ticket is cut at its step boundaries, and followers of a cut one follow its predecessor",
       cuts_at_step_boundaries},
      {"a deadlock lists who waits for what", lists_who_is_stuck},
      {"simulations run side by side in threads", lives_in_many_threads},
      {"time does not go back", refuses_going_back},
  };
}
