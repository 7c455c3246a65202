#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "astra/collective/config.h"
#include "astra/memory/memory_model.h"
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

  nb::class_<astra::MemoryLevel>(module, "MemoryLevel")
      .def(nb::init<>())
      .def_rw("type", &astra::MemoryLevel::type)
      .def_rw("latency_ns", &astra::MemoryLevel::latency_ns)
      .def_rw("bandwidth", &astra::MemoryLevel::bandwidth)
      .def_rw("npus_per_node", &astra::MemoryLevel::npus_per_node)
      .def_rw("num_devices", &astra::MemoryLevel::num_devices)
      .def_rw("pim_channels", &astra::MemoryLevel::pim_channels)
      .def_rw("queues_per_device", &astra::MemoryLevel::queues_per_device);

  nb::class_<astra::MemoryConfig>(module, "MemoryConfig")
      .def(nb::init<>())
      .def_rw("local", &astra::MemoryConfig::local)
      .def_rw("remote", &astra::MemoryConfig::remote)
      .def_rw("cxl", &astra::MemoryConfig::cxl)
      .def_rw("storage", &astra::MemoryConfig::storage);
}

}  // namespace bindings
