#include "astra/simulation.h"
#include "builder.h"
#include "check.h"

namespace {

using astra::Simulation;

astra::Time time_of(const astra::GraphSpec& spec, std::int64_t npus = 4) {
  Simulation simulation(ring_network(npus), {}, {});
  simulation.submit(simulation.add_graph(spec), {}, {}, -1);
  simulation.advance(1'000'000'000);
  return simulation.now();
}

void overlaps_compute_with_communication() {
  GraphBuilder graph(Classes{{0, 1, 2, 3}});
  graph.comp(0, 3000);
  graph.all_reduce(0, 65536);
  const astra::Time together = time_of(graph.spec());
  CHECK(together == 7 * 10 + 6 * 805);
}

void runs_one_compute_node_at_a_time() {
  GraphBuilder graph(Classes{{0}});
  graph.comp(0, 30);
  graph.comp(0, 12);
  CHECK(time_of(graph.spec()) == 42);
}

void collapses_without_a_difference() {
  GraphBuilder collapsed(Classes{{0, 1, 2, 3}});
  collapsed.all_reduce(0, 65536, {collapsed.comp(0, 1000)});
  GraphBuilder expanded(Classes{{0}, {1}, {2}, {3}});
  for (int rank = 0; rank < 4; ++rank) {
    expanded.all_reduce(rank, 65536, {expanded.comp(rank, 1000)});
  }
  CHECK(time_of(collapsed.spec()) == time_of(expanded.spec()));
}

void moves_messages() {
  GraphBuilder graph(Classes{{0}, {1}});
  graph.send(0, 1, 16384, {graph.comp(0, 100)});
  graph.comp(1, 50, {graph.recv(1, 0, 16384)});
  CHECK(time_of(graph.spec()) == 100 + 805 + 50);
}

void refuses_what_makes_no_sense() {
  const auto refused = [](auto change) {
    GraphBuilder graph(Classes{{0}, {1}});
    graph.comp(0, 1);
    change(graph.spec());
    CHECK_THROWS(time_of(graph.spec()), std::invalid_argument);
  };
  refused([](astra::GraphSpec& s) { s.type[0] = 1; });
  refused([](astra::GraphSpec& s) { s.type[0] = 9; });
  refused([](astra::GraphSpec& s) { s.rank_class[0] = 2; });
  refused([](astra::GraphSpec& s) { s.rank_classes[1] = {0}; });
  refused([](astra::GraphSpec& s) { s.rank_classes[1] = {}; });
  refused([](astra::GraphSpec& s) { s.rank_classes[1] = {4}; });
  refused([](astra::GraphSpec& s) { s.data_deps = {{0, 1}, {0}}; });
  refused([](astra::GraphSpec& s) { s.data_deps = {{0, 1}, {7}}; });
  refused([](astra::GraphSpec& s) { s.data_deps = {{0, 2}, {0}}; });
  refused([](astra::GraphSpec& s) { s.duration_ns.clear(); });
  refused([](astra::GraphSpec& s) { s.duration_ns[0] = -1; });
  refused([](astra::GraphSpec& s) { s.type[0] = 5; });
  refused([](astra::GraphSpec& s) { s.type[0] = 7; });
  refused([](astra::GraphSpec& s) { s.type[0] = 2; });
}

}  // namespace

Tests graph_tests() {
  return {
      {"compute and communication of a rank overlap", overlaps_compute_with_communication},
      {"two compute nodes of a rank do not", runs_one_compute_node_at_a_time},
      {"a rank class times like its expanded ranks", collapses_without_a_difference},
      {"a receive completes when its message arrives", moves_messages},
      {"graphs that make no sense are refused", refuses_what_makes_no_sense},
  };
}
