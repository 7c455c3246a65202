#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "astra/collective/config.h"
#include "astra/network/config.h"
#include "bindings/bindings.h"

namespace bindings {
namespace nb = nanobind;

void bind_configs(nb::module_& module) {
  nb::class_<astra::NetworkConfig>(module, "NetworkConfig")
      .def(nb::init<>())
      .def_rw("topology", &astra::NetworkConfig::topology)
      .def_rw("npus_count", &astra::NetworkConfig::npus_count)
      .def_rw("bandwidth", &astra::NetworkConfig::bandwidth)
      .def_rw("latency_ns", &astra::NetworkConfig::latency_ns)
      .def_rw("model", &astra::NetworkConfig::model)
      .def_rw("parity", &astra::NetworkConfig::parity);

  nb::class_<astra::SystemConfig>(module, "SystemConfig")
      .def(nb::init<>())
      .def_rw("preferred_dataset_splits", &astra::SystemConfig::preferred_dataset_splits)
      .def_rw("active_chunks_per_dimension", &astra::SystemConfig::active_chunks_per_dimension)
      .def_rw("scheduling_policy", &astra::SystemConfig::scheduling_policy)
      .def_rw("endpoint_delay_ns", &astra::SystemConfig::endpoint_delay_ns)
      .def_rw("local_mem_bandwidth", &astra::SystemConfig::local_mem_bandwidth)
      .def_rw("zero_duration_ns", &astra::SystemConfig::zero_duration_ns)
      .def_rw("parity", &astra::SystemConfig::parity)
      .def_rw("all_reduce", &astra::SystemConfig::all_reduce)
      .def_rw("all_gather", &astra::SystemConfig::all_gather)
      .def_rw("reduce_scatter", &astra::SystemConfig::reduce_scatter)
      .def_rw("all_to_all", &astra::SystemConfig::all_to_all);
}

}  // namespace bindings
