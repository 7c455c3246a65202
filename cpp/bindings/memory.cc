// Memories: what describes them, what a memory of the user's own is asked, what they did.
#include <nanobind/stl/function.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "astra/memory/memory_model.h"
#include "bindings/bindings.h"

namespace bindings {
namespace nb = nanobind;

namespace {

void bind_level(nb::module_& module) {
  nb::class_<astra::MemoryRate>(module, "MemoryRate")
      .def(
          "__init__",
          [](astra::MemoryRate* self, astra::Time latency_ns, double bandwidth, double write_bandwidth) {
            new (self) astra::MemoryRate{latency_ns, bandwidth, write_bandwidth};
          },
          nb::arg("latency_ns") = 0, nb::arg("bandwidth") = 0.0, nb::arg("write_bandwidth") = 0.0);

  nb::class_<astra::MemoryLink>(module, "MemoryLink")
      .def(
          "__init__",
          [](astra::MemoryLink* self, double bandwidth, astra::Time latency_ns) {
            new (self) astra::MemoryLink{bandwidth, latency_ns};
          },
          nb::arg("bandwidth"), nb::arg("latency_ns") = 0);

  nb::class_<astra::MemoryLevel>(module, "MemoryLevel")
      .def(nb::init<>())
      .def_rw("type", &astra::MemoryLevel::type)
      .def_rw("latency_ns", &astra::MemoryLevel::latency_ns)
      .def_rw("bandwidth", &astra::MemoryLevel::bandwidth)
      .def_rw("npus_per_node", &astra::MemoryLevel::npus_per_node)
      .def_rw("num_devices", &astra::MemoryLevel::num_devices)
      .def_rw("pim_channels", &astra::MemoryLevel::pim_channels)
      .def_rw("queues_per_device", &astra::MemoryLevel::queues_per_device)
      .def_rw("discipline", &astra::MemoryLevel::discipline)
      .def_rw("channels", &astra::MemoryLevel::channels)
      .def_rw("write_bandwidth", &astra::MemoryLevel::write_bandwidth)
      .def_rw("capacity_bytes", &astra::MemoryLevel::capacity_bytes)
      .def_rw("rates", &astra::MemoryLevel::rates)
      .def_rw("endpoints", &astra::MemoryLevel::endpoints)
      .def_rw("interleaves", &astra::MemoryLevel::interleaves)
      .def_rw("links", &astra::MemoryLevel::links)
      .def_rw("rank_links", &astra::MemoryLevel::rank_links)
      .def_rw("device_links", &astra::MemoryLevel::device_links)
      .def_rw("service_ns", &astra::MemoryLevel::service_ns)
      .def_rw("server", &astra::MemoryLevel::server);
}

}  // namespace

void bind_memory(nb::module_& module) {
  nb::class_<astra::MemoryAccess>(module, "MemoryAccess")
      .def(
          "__init__",
          [](astra::MemoryAccess* self, astra::Rank rank, std::int32_t device, std::int32_t channel, bool is_store,
             astra::Bytes size) { new (self) astra::MemoryAccess{rank, device, channel, is_store, size}; },
          nb::arg("rank") = 0, nb::arg("device") = 0, nb::arg("channel") = 0, nb::arg("is_store") = false,
          nb::arg("size_bytes") = 0)
      .def_ro("rank", &astra::MemoryAccess::rank)
      .def_ro("device", &astra::MemoryAccess::device)
      .def_ro("channel", &astra::MemoryAccess::channel)
      .def_ro("is_store", &astra::MemoryAccess::is_store)
      .def_ro("size_bytes", &astra::MemoryAccess::bytes)
      .def("__repr__", [](const astra::MemoryAccess& access) {
        return "MemoryAccess(rank=" + std::to_string(access.rank) + ", device=" + std::to_string(access.device) +
               ", channel=" + std::to_string(access.channel) + ", is_store=" + (access.is_store ? "True" : "False") +
               ", size_bytes=" + std::to_string(access.bytes) + ")";
      });

  nb::class_<astra::MemoryUse>(module, "MemoryUse")
      .def_ro("accesses", &astra::MemoryUse::accesses)
      .def_ro("bytes_loaded", &astra::MemoryUse::bytes_loaded)
      .def_ro("bytes_stored", &astra::MemoryUse::bytes_stored)
      .def_ro("busy_ns", &astra::MemoryUse::busy_ns)
      .def_ro("longest_queue", &astra::MemoryUse::longest_queue)
      .def_ro("capacity_bytes", &astra::MemoryUse::capacity_bytes);

  bind_level(module);

  nb::class_<astra::MemoryConfig>(module, "MemoryConfig")
      .def(nb::init<>())
      .def_rw("local", &astra::MemoryConfig::local)
      .def_rw("remote", &astra::MemoryConfig::remote)
      .def_rw("cxl", &astra::MemoryConfig::cxl)
      .def_rw("storage", &astra::MemoryConfig::storage);
}

namespace {

constexpr std::pair<const char*, astra::MemoryLocation> kMemories[] = {
    {"local", astra::MemoryLocation::kLocal},
    {"remote", astra::MemoryLocation::kRemote},
    {"cxl", astra::MemoryLocation::kCxl},
    {"storage", astra::MemoryLocation::kStorage},
};

}  // namespace

nb::dict memory_link_use(const astra::Simulation& simulation) {
  nb::dict result;
  for (const auto& [name, location] : kMemories) {
    nb::list links;
    for (const astra::LinkUse& use : simulation.memory_link_use(location)) {
      links.append(nb::make_tuple(use.bytes, use.busy_ns));
    }
    if (nb::len(links) > 0) {
      result[name] = links;
    }
  }
  return result;
}

nb::dict memory_use(const astra::Simulation& simulation) {
  nb::dict result;
  for (const auto& [name, location] : kMemories) {
    if (const auto use = simulation.memory_use(location)) {
      result[name] = *use;
    }
  }
  return result;
}

}  // namespace bindings
