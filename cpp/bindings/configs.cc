#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

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
}

}  // namespace bindings
