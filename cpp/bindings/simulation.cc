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

// A simulation that refuses calls while another thread is inside `advance`, which runs without the GIL.
class Guarded {
 public:
  Guarded(const astra::NetworkConfig& network, const astra::SystemConfig& system, const astra::MemoryConfig& memory)
      : simulation_(network, system, memory) {}

  astra::Simulation& idle() {
    if (is_advancing_) {
      throw std::runtime_error("the backend is in use: another thread is inside its advance");
    }
    return simulation_;
  }

  std::vector<astra::Ticket> advance(astra::Time until) {
    idle();
    const Advancing advancing(is_advancing_);
    const nb::gil_scoped_release unlocked;
    return simulation_.advance(until);
  }

 private:
  // The flag changes only with the GIL held.
  struct Advancing {
    explicit Advancing(bool& is_advancing) : flag(is_advancing) { flag = true; }
    ~Advancing() { flag = false; }
    Advancing(const Advancing&) = delete;
    Advancing& operator=(const Advancing&) = delete;
    bool& flag;
  };

  astra::Simulation simulation_;
  bool is_advancing_ = false;
};

astra::Ticket submit(Guarded& self, astra::GraphId graph, nb::handle durations, nb::handle sizes, astra::Ticket after) {
  const std::size_t nodes = self.idle().graph_size(graph);
  const ValuesView d(durations, nodes, "durations_ns");
  const ValuesView s(sizes, nodes, "sizes_bytes");
  if (d.values().data != nullptr && s.values().data != nullptr &&
      (d.values().steps != s.values().steps || d.dimensions() != s.dimensions())) {
    throw std::invalid_argument("durations_ns and sizes_bytes must have the same shape");
  }
  return self.idle().submit(graph, d.values(), s.values(), after);
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
            return self.idle().add_graph(spec);
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
      .def(
          "node_times",
          [](Guarded& self, Ticket ticket) {
            return nb::make_tuple(to_numpy(self.idle().node_starts(ticket)), to_numpy(self.idle().node_ends(ticket)));
          },
          nb::arg("ticket"), "When each node began and ended in the last step of a completed ticket; -1: never.");
}

}  // namespace bindings
