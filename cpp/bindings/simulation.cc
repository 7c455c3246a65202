#include "astra/simulation.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

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

// A simulation that refuses calls while another is under way: `advance` runs without the GIL.
class Guarded {
 public:
  Guarded(const astra::NetworkConfig& network, const astra::SystemConfig& system, const astra::MemoryConfig& memory)
      : simulation_(network, system, memory) {}

  astra::Simulation& idle() {
    if (is_in_use_) {
      throw std::runtime_error("the backend is in use: another call of it has not returned");
    }
    return simulation_;
  }

  // What may ask Python for a route lets other threads in meanwhile.
  template <typename Action>
  auto alone(Action action) {
    idle();
    const Use use(is_in_use_);
    return action(simulation_);
  }

  std::vector<astra::Ticket> advance(astra::Time until) {
    return alone([&](astra::Simulation& simulation) {
      const nb::gil_scoped_release unlocked;
      return simulation.advance(until);
    });
  }

 private:
  // The flag changes only with the GIL held.
  struct Use {
    explicit Use(bool& is_in_use) : flag(is_in_use) { flag = true; }
    ~Use() { flag = false; }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    bool& flag;
  };

  astra::Simulation simulation_;
  bool is_in_use_ = false;
};

astra::Ticket submit(Guarded& self, astra::GraphId graph, nb::handle durations, nb::handle sizes, astra::Ticket after) {
  const std::size_t nodes = self.idle().graph_size(graph);
  const ValuesView d(durations, nodes, "durations_ns");
  const ValuesView s(sizes, nodes, "sizes_bytes");
  if (d.values().data != nullptr && s.values().data != nullptr &&
      (d.values().steps != s.values().steps || d.dimensions() != s.dimensions())) {
    throw std::invalid_argument("durations_ns and sizes_bytes must have the same shape");
  }
  return self.alone(
      [&](astra::Simulation& simulation) { return simulation.submit(graph, d.values(), s.values(), after); });
}

template <typename T, typename Value>
Array<T> per_link(Guarded& self, Value value) {
  std::vector<T> result;
  for (const astra::LinkUse& use : self.idle().network().link_use()) {
    result.push_back(value(use));
  }
  return to_numpy(std::move(result));
}

nb::list link_ends(Guarded& self) {
  nb::list result;
  for (const astra::Link& link : self.idle().network().links()) {
    result.append(nb::make_tuple(link.from, link.to));
  }
  return result;
}

nb::list advance(Guarded& self, astra::Time until) {
  nb::list result;
  for (const astra::Ticket ticket : self.advance(until)) {
    result.append(ticket);
  }
  return result;
}

}  // namespace

void bind_simulation(nb::module_& module) {
  using astra::Ticket;
  nb::class_<Guarded>(module, "Simulation", "The clock; its methods are those of llmservingsim.backend.Backend.")
      .def(nb::init<const astra::NetworkConfig&, const astra::SystemConfig&, const astra::MemoryConfig&>(),
           nb::arg("network"), nb::arg("system"), nb::arg("memory"))
      .def_prop_ro(
          "now_ns", [](Guarded& self) { return self.idle().now(); }, "Simulated time in nanoseconds.")
      .def(
          "register",
          [](Guarded& self, nb::handle graph) {
            const astra::GraphSpec spec = to_spec(graph);  // runs Python, which may let other threads in
            return self.alone([&](astra::Simulation& simulation) { return simulation.add_graph(spec); });
          },
          nb::arg("graph"), "Check a graph and keep its topology.")
      .def("submit", &submit, nb::arg("graph"), nb::arg("durations_ns") = nb::none(),
           nb::arg("sizes_bytes") = nb::none(), nb::arg("after") = -1, "Start a registered graph; returns its ticket.")
      .def("advance", &advance, nb::arg("until_ns"), "Move to the next completion; returns the tickets that complete.")
      .def(
          "cut", [](Guarded& self, Ticket ticket) { return self.idle().cut(ticket); }, nb::arg("ticket"),
          "Drop the steps that have not begun; returns how many remain.")
      .def(
          "step_ends_ns", [](Guarded& self, Ticket ticket) { return to_numpy(self.idle().step_ends(ticket)); },
          nb::arg("ticket"), "End times of the steps that have ended.")
      .def(
          "ranks", [](Guarded& self, Ticket ticket) { return to_numpy(self.idle().ranks(ticket)); }, nb::arg("ticket"),
          "Ranks of a completed ticket's graph, ascending.")
      .def(
          "rank_finish_ns", [](Guarded& self, Ticket ticket) { return to_numpy(self.idle().rank_finish(ticket)); },
          nb::arg("ticket"), "When each of `ranks` finished the last step of a completed ticket.")
      .def(
          "rank_compute_ns", [](Guarded& self, Ticket ticket) { return to_numpy(self.idle().rank_compute(ticket)); },
          nb::arg("ticket"), "Accelerator COMP time of each of `ranks` over all steps of a completed ticket.")
      .def("link_ends", &link_ends,
           "The devices that each link leads from and to: a fabric's links, or those of a grid that were used so far.")
      .def(
          "link_bytes",
          [](Guarded& self) { return per_link<astra::Bytes>(self, [](const auto& use) { return use.bytes; }); },
          "Bytes that each of `link_ends` carried so far; empty where messages do not occupy links.")
      .def(
          "link_busy_ns",
          [](Guarded& self) { return per_link<astra::Time>(self, [](const auto& use) { return use.busy_ns; }); },
          "For how long each of `link_ends` carried something so far; empty likewise.")
      .def(
          "node_times",
          [](Guarded& self, Ticket ticket) {
            return nb::make_tuple(to_numpy(self.idle().node_starts(ticket)), to_numpy(self.idle().node_ends(ticket)));
          },
          nb::arg("ticket"), "When each node began and ended in the last step of a completed ticket; -1: never.")
      .def(
          "memory_use", [](Guarded& self) { return memory_use(self.idle()); },
          "What each configured memory did so far, by its name.")
      .def(
          "memory_link_use", [](Guarded& self) { return memory_link_use(self.idle()); },
          "Bytes and busy nanoseconds of the links of each memory that has some, by its name.");
}

}  // namespace bindings
