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

// Two ranks compute and reduce; one stands for both, or each for itself.
void keeps_what_lanes_waited_for() {
  for (const Classes& classes : {Classes{{0, 1}}, Classes{{0}, {1}}}) {
    GraphBuilder builder(classes);
    for (int rank_class = 0; rank_class < static_cast<int>(classes.size()); ++rank_class) {
      builder.comp(rank_class, 70);
      const int first = static_cast<int>(builder.spec().names.size()) - 1;
      builder.all_reduce(rank_class, 65'536, {first});
    }
    Simulation simulation(ring_network(2), {}, {});
    const astra::GraphId graph = simulation.add_graph(builder.spec());
    simulation.submit(graph, {}, {}, -1);
    simulation.advance(1'000'000);
    CHECK(simulation.times(graph).empty());
    simulation.keep_times(graph);
    const Ticket ticket = simulation.submit(graph, {}, {}, -1);
    const astra::Time begin = simulation.now();
    CHECK(simulation.advance(2'000'000) == Tickets{ticket});
    const astra::Time messages = simulation.now() - begin - 70;
    std::vector<astra::Time> expected{begin};
    for (std::size_t lane = 0; lane < classes.size(); ++lane) expected.insert(expected.end(), {messages, 0, 0});
    CHECK(simulation.times(graph) == expected);
    CHECK(simulation.lanes(graph) == classes);
    CHECK_THROWS(simulation.keep_times(graph + 1), std::invalid_argument);
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

// A memory so slow that it takes a small access, but no large one.
astra::MemoryConfig slow_memory() {
  astra::MemoryConfig memory;
  memory.remote = {.type = "MEMORY_POOL", .latency_ns = 10, .bandwidth = 1.0 / (1 << 30)};
  return memory;
}

void survives_a_refused_submission() {
  GraphBuilder graph(Classes{{0}});
  graph.comp(0, 4);
  graph.load(0, 1);
  Simulation simulation(ring_network(2), {}, slow_memory());
  const astra::GraphId id = simulation.add_graph(graph.spec());
  const std::vector<astra::Bytes> sizes = {0, 1, 0, astra::Bytes{1} << 59};
  CHECK_THROWS(simulation.submit(id, {}, {sizes.data() + 2, 1}, -1), std::invalid_argument);
  CHECK_THROWS(simulation.submit(id, {}, {sizes.data(), 2}, -1), std::invalid_argument);
  CHECK(simulation.advance(7).empty() && simulation.now() == 7);
  const Ticket ticket = simulation.submit(id, {}, {}, -1);
  CHECK(ticket == 0);
  CHECK(simulation.advance(INT64_MAX / 2) == Tickets{ticket} && simulation.now() == 7 + 10 + (1 << 30));
}

void refuses_what_ends_beyond_all_time() {
  for (const astra::GraphSpec& spec : {timed(), with_events()}) {
    Simulation simulation(ring_network(2), {}, {});
    const astra::GraphId graph = simulation.add_graph(spec);
    simulation.advance(INT64_MAX - 5);
    CHECK_THROWS(simulation.submit(graph, {}, {}, -1), std::invalid_argument);
    CHECK(simulation.advance(INT64_MAX).empty());
  }
  GraphBuilder chain(Classes{{0}});
  for (int i = 0; i < 8; ++i) chain.comp(0, astra::Time{1} << 59, i > 0 ? std::vector<int>{i - 1} : std::vector<int>{});
  Simulation simulation(ring_network(2), {}, {});
  CHECK_THROWS(simulation.submit(simulation.add_graph(chain.spec()), {}, {}, -1), std::invalid_argument);
  CHECK(simulation.advance(10).empty());
}

void refuses_messages_that_take_for_ever() {
  GraphBuilder collective(Classes{{0}, {1}});
  collective.all_reduce(0, 64);
  collective.all_reduce(1, 64);
  GraphBuilder message(Classes{{0}, {1}});
  message.send(0, 1, 64);
  message.recv(1, 0, 64);
  for (const astra::GraphSpec& spec : {collective.spec(), message.spec()}) {
    Simulation simulation({{"Ring"}, {2}, {1e-18}, {500}}, {}, {});
    CHECK_THROWS(simulation.submit(simulation.add_graph(spec), {}, {}, -1), std::invalid_argument);
    CHECK(simulation.advance(10).empty());
  }
}

void refuses_settings_that_overflow() {
  astra::SystemConfig chunks;
  chunks.active_chunks_per_dimension = INT64_MAX;
  CHECK_THROWS(Simulation(ring_network(2), chunks, {}), std::invalid_argument);
  astra::SystemConfig splits;
  splits.preferred_dataset_splits = INT64_MAX;
  CHECK_THROWS(Simulation(ring_network(2), splits, {}), std::invalid_argument);
  astra::MemoryConfig late = slow_memory();
  late.remote.latency_ns = INT64_MAX;
  CHECK_THROWS(Simulation(ring_network(2), {}, late), std::invalid_argument);
  astra::MemoryConfig wide = slow_memory();
  wide.remote.type = "PER_NODE_MEMORY_EXPANSION";
  wide.remote.npus_per_node = INT64_MAX;
  CHECK_THROWS(Simulation(ring_network(2), {}, wide), std::invalid_argument);
}

}  // namespace

Tests simulation_tests() {
  return {
      {"a ticket is cut at its step boundaries, and followers of a cut one follow its predecessor",
       cuts_at_step_boundaries},
      {"what lanes waited for is kept of the tickets of a graph", keeps_what_lanes_waited_for},
      {"a deadlock lists who waits for what", lists_who_is_stuck},
      {"simulations run side by side in threads", lives_in_many_threads},
      {"time does not go back", refuses_going_back},
      {"a refused submission leaves the simulation as it was", survives_a_refused_submission},
      {"what would end beyond all time is refused when it is submitted", refuses_what_ends_beyond_all_time},
      {"messages that would take for ever are refused when they are submitted", refuses_messages_that_take_for_ever},
      {"settings whose arithmetic would overflow are refused", refuses_settings_that_overflow},
  };
}
