// The system layer's configuration; a user's own algorithms are Python functions that the library calls.
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "astra/base/errors.h"
#include "astra/collective/config.h"
#include "bindings/bindings.h"

namespace bindings {
namespace nb = nanobind;
namespace {

// `llmservingsim.backend.steps.Step`.
astra::Step to_step(nb::handle step) {
  astra::Step result;
  const auto kind = nb::cast<std::string>(step.attr("kind"));
  constexpr const char* kKinds[] = {"send", "receive", "reduce", "delay"};
  for (std::size_t i = 0; i < std::size(kKinds); ++i) {
    if (kind == kKinds[i]) result.kind = static_cast<astra::StepKind>(i);
  }
  result.peer = nb::cast<std::int32_t>(step.attr("peer"));
  result.bytes = nb::cast<astra::Bytes>(step.attr("size_bytes"));
  result.tag = static_cast<std::uint32_t>(nb::cast<std::int64_t>(step.attr("tag")));
  result.after = nb::cast<std::vector<std::uint32_t>>(step.attr("after"));
  if (const nb::object duration = step.attr("duration_ns"); !duration.is_none()) {
    result.duration = nb::cast<astra::Time>(duration);
  }
  return result;
}

astra::Program to_program(nb::handle steps) {
  astra::Program program;
  for (const nb::handle step : steps) {
    program.push_back(to_step(step));
  }
  return program;
}

// Asks a Python callable, from whichever thread simulates.
astra::SystemConfig::Author to_author(nb::callable steps) {
  // The last copy of the function may go in a thread without the GIL.
  const std::shared_ptr<nb::callable> held(new nb::callable(std::move(steps)), [](nb::callable* callable) {
    const nb::gil_scoped_acquire locked;
    delete callable;
  });
  return [held](astra::CollectiveType type, astra::Bytes bytes, std::int32_t members, std::int32_t index) {
    const nb::gil_scoped_acquire locked;
    return to_program((*held)(static_cast<int>(type), bytes, members, index));
  };
}

void set_programs(astra::SystemConfig& config, nb::handle sets) {
  config.programs.clear();
  for (const nb::handle set : sets) {
    std::vector<astra::Program>& programs = config.programs.emplace_back();
    for (const nb::handle steps : set) {
      programs.push_back(to_program(steps));
    }
  }
}

}  // namespace

void bind_system(nb::module_& module) {
  using astra::SystemConfig;
  nb::class_<SystemConfig>(module, "SystemConfig")
      .def(nb::init<>())
      .def_rw("preferred_dataset_splits", &SystemConfig::preferred_dataset_splits)
      .def_rw("active_chunks_per_dimension", &SystemConfig::active_chunks_per_dimension)
      .def_rw("num_queues_per_dim", &SystemConfig::num_queues_per_dim)
      .def_rw("scheduling_policy", &SystemConfig::scheduling_policy)
      .def_rw("collective_optimization", &SystemConfig::collective_optimization)
      .def_rw("endpoint_delay_ns", &SystemConfig::endpoint_delay_ns)
      .def_rw("local_mem_bandwidth", &SystemConfig::local_mem_bandwidth)
      .def_rw("peak_perf", &SystemConfig::peak_perf)
      .def_rw("roofline_enabled", &SystemConfig::roofline_enabled)
      .def_rw("replay_only", &SystemConfig::replay_only)
      .def_rw("rendezvous", &SystemConfig::rendezvous)
      .def_rw("local_reduction_delay_ns", &SystemConfig::local_reduction_delay_ns)
      .def_rw("zero_duration_ns", &SystemConfig::zero_duration_ns)
      .def_rw("parity", &SystemConfig::parity)
      .def_rw("dialect", &SystemConfig::dialect)
      .def_rw("record_nodes", &SystemConfig::record_nodes)
      .def_rw("all_reduce", &SystemConfig::all_reduce)
      .def_rw("all_gather", &SystemConfig::all_gather)
      .def_rw("reduce_scatter", &SystemConfig::reduce_scatter)
      .def_rw("all_to_all", &SystemConfig::all_to_all)
      .def("set_shared_bus", [](SystemConfig& self, astra::Time L, astra::Time o, astra::Time g,
                                double G) { self.shared_bus = astra::BusConfig{L, o, g, G}; })
      .def("add_author", [](SystemConfig& self, const std::string& name,
                            nb::callable steps) { self.authors[name] = to_author(std::move(steps)); })
      .def("set_programs", &set_programs)
      .def("set_custom", [](SystemConfig& self, int collective,
                            std::int32_t set) { self.custom[static_cast<astra::CollectiveType>(collective)] = set; })
      .def("add_measured", [](SystemConfig& self, int collective, std::int64_t ranks, std::vector<astra::Bytes> sizes,
                              std::vector<astra::Time> times) {
        self.measured.push_back(
            {static_cast<astra::CollectiveType>(collective), ranks, std::move(sizes), std::move(times)});
      });
}

}  // namespace bindings
