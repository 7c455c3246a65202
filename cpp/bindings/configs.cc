#include <nanobind/stl/function.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>
#include <utility>

#include "astra/base/errors.h"
#include "astra/network/config.h"
#include "bindings/bindings.h"

namespace bindings {
namespace nb = nanobind;
namespace {

using LinkTuple = std::tuple<std::int32_t, std::int32_t, double, double>;

void set_links(astra::Fabric& fabric, const std::vector<LinkTuple>& links) {
  fabric.links.clear();
  for (const auto& [from, to, bandwidth, latency_ns] : links) {
    fabric.links.push_back({from, to, bandwidth, latency_ns});
  }
}

// Calls Python while the simulation runs without the GIL; what it raises passes through the simulation.
void set_route(astra::Fabric& fabric, std::function<nb::object(std::int32_t, std::int32_t)> route) {
  fabric.route = [route = std::move(route)](std::int32_t from, std::int32_t to) {
    const nb::gil_scoped_acquire locked;
    const nb::object answer = route(from, to);
    std::vector<std::int32_t> links;
    if (!nb::try_cast(answer, links)) {
      astra::refuse("network: the route from device " + std::to_string(from) + " to " + std::to_string(to) +
                    " must be a sequence of indices of links, not " + nb::repr(answer).c_str());
    }
    return links;
  };
}

}  // namespace

void bind_configs(nb::module_& module) {
  nb::class_<astra::Fabric>(module, "Fabric")
      .def(nb::init<>())
      .def_rw("endpoints", &astra::Fabric::endpoints)
      .def_rw("switches", &astra::Fabric::switches)
      .def("set_links", &set_links, nb::arg("links"), "Tuples of from, to, bytes per nanosecond and latency.")
      .def("set_route", &set_route, nb::arg("route"), "Links in order from one device to another.");

  nb::class_<astra::NetworkConfig>(module, "NetworkConfig")
      .def(nb::init<>())
      .def_rw("topology", &astra::NetworkConfig::topology)
      .def_rw("npus_count", &astra::NetworkConfig::npus_count)
      .def_rw("bandwidth", &astra::NetworkConfig::bandwidth)
      .def_rw("latency_ns", &astra::NetworkConfig::latency_ns)
      .def_rw("model", &astra::NetworkConfig::model)
      .def_rw("fabric", &astra::NetworkConfig::fabric)
      .def_rw("parity", &astra::NetworkConfig::parity)
      .def_rw("refuses_time_zero", &astra::NetworkConfig::refuses_time_zero);
}

}  // namespace bindings
