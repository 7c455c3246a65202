#include "astra/simulation.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include "bindings/arrays.h"
#include "bindings/bindings.h"

namespace bindings {
namespace nb = nanobind;
namespace {

template <typename T>
using Array = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

template <typename T>
Array<T> to_numpy(std::vector<T> values) {
  auto* owned = new std::vector<T>(std::move(values));
  nb::capsule owner(owned, [](void* pointer) noexcept { delete static_cast<std::vector<T>*>(pointer); });
  return Array<T>(owned->data(), {owned->size()}, owner);
}

astra::Ticket submit(astra::Simulation& simulation, astra::GraphId graph, nb::handle durations, nb::handle sizes,
                     astra::Ticket after) {
  const std::size_t nodes = simulation.graph_size(graph);
  const ValuesView d(durations, nodes, "durations_ns");
  const ValuesView s(sizes, nodes, "sizes_bytes");
  if (d.values().data != nullptr && s.values().data != nullptr &&
      (d.values().steps != s.values().steps || d.dimensions() != s.dimensions())) {
    throw std::invalid_argument("durations_ns and sizes_bytes must have the same shape");
  }
  return simulation.submit(graph, d.values(), s.values(), after);
}

nb::list advance(astra::Simulation& simulation, astra::Time until) {
  std::vector<astra::Ticket> tickets;
  {
    nb::gil_scoped_release unlocked;
    tickets = simulation.advance(until);
  }
  nb::list result;
  for (const astra::Ticket ticket : tickets) {
    result.append(ticket);
  }
  return result;
}

}  // namespace

void bind_simulation(nb::module_& module) {
  using astra::Simulation;
  using astra::Ticket;
  nb::class_<Simulation>(module, "Simulation", "The clock; its methods are those of llmservingsim.backend.Backend.")
      .def(nb::init<const astra::NetworkConfig&, const astra::SystemConfig&, const astra::MemoryConfig&>(),
           nb::arg("network"), nb::arg("system"), nb::arg("memory"))
      .def_prop_ro("now_ns", &Simulation::now, "Simulated time in nanoseconds.")
      .def(
          "register", [](Simulation& self, nb::handle graph) { return self.add_graph(to_spec(graph)); },
          nb::arg("graph"), "Check a graph and keep its topology.")
      .def("submit", &submit, nb::arg("graph"), nb::arg("durations_ns") = nb::none(),
           nb::arg("sizes_bytes") = nb::none(), nb::arg("after") = -1, "Start a registered graph; returns its ticket.")
      .def("advance", &advance, nb::arg("until_ns"), "Move to the next completion; returns the tickets that complete.")
      .def("cut", &Simulation::cut, nb::arg("ticket"), "Drop the steps that have not begun; returns how many remain.")
      .def(
          "step_ends_ns", [](const Simulation& self, Ticket ticket) { return to_numpy(self.step_ends(ticket)); },
          nb::arg("ticket"), "End times of the steps that have ended.")
      .def(
          "ranks", [](const Simulation& self, Ticket ticket) { return to_numpy(self.ranks(ticket)); },
          nb::arg("ticket"), "Ranks of a completed ticket's graph, ascending.")
      .def(
          "rank_finish_ns", [](const Simulation& self, Ticket ticket) { return to_numpy(self.rank_finish(ticket)); },
          nb::arg("ticket"), "When each of `ranks` finished the last step of a completed ticket.")
      .def(
          "rank_compute_ns", [](const Simulation& self, Ticket ticket) { return to_numpy(self.rank_compute(ticket)); },
          nb::arg("ticket"), "Accelerator COMP time of each of `ranks` over all steps of a completed ticket.");
}

}  // namespace bindings
