#include "bindings/arrays.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "astra/base/errors.h"

namespace bindings {
namespace nb = nanobind;

ValuesView::ValuesView(nb::handle array, std::size_t nodes, const char* name) {
  if (array.is_none()) {
    return;
  }
  if (PyObject_GetBuffer(array.ptr(), &buffer_, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0) {
    PyErr_Clear();
    astra::refuse(std::string(name) + " must be a C-contiguous int64 array");
  }
  is_held_ = true;
  try {
    check(nodes, name);
  } catch (...) {
    PyBuffer_Release(&buffer_);
    throw;
  }
}

void ValuesView::check(std::size_t nodes, const char* name) {
  const char format = buffer_.format != nullptr ? buffer_.format[0] : '\0';
  if ((format != 'l' && format != 'q') || buffer_.itemsize != 8) {
    astra::refuse(std::string(name) + " must be an int64 array");
  }
  const bool has_steps = buffer_.ndim == 2;
  if ((buffer_.ndim != 1 && !has_steps) || static_cast<std::size_t>(buffer_.shape[buffer_.ndim - 1]) != nodes ||
      (has_steps && buffer_.shape[0] == 0)) {
    astra::refuse(std::string(name) + " must have shape [nodes] or [steps, nodes] with nodes = " +
                  std::to_string(nodes) + " and steps > 0");
  }
  dimensions_ = static_cast<std::size_t>(buffer_.ndim);
  values_ = {static_cast<const std::int64_t*>(buffer_.buf), has_steps ? static_cast<std::size_t>(buffer_.shape[0]) : 1};
}

ValuesView::~ValuesView() {
  if (is_held_) {
    PyBuffer_Release(&buffer_);
  }
}

namespace {

constexpr bool kConvert = false;  // a conversion would drop fractions and high bits silently

template <typename T>
std::vector<T> column(nb::handle graph, const char* name) {
  nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu> array;
  if (!nb::try_cast(graph.attr(name), array, kConvert)) {
    astra::refuse(std::string("graph: ") + name + " is not a contiguous one-dimensional array of the right type");
  }
  return {array.data(), array.data() + array.size()};
}

std::vector<std::uint8_t> flags(nb::handle graph, const char* name) {
  nb::ndarray<const bool, nb::ndim<1>, nb::c_contig, nb::device::cpu> array;
  if (!nb::try_cast(graph.attr(name), array, kConvert)) {
    astra::refuse(std::string("graph: ") + name + " is not a contiguous one-dimensional array of bool");
  }
  return {array.data(), array.data() + array.size()};
}

template <typename T>
std::vector<T> sequence(nb::handle graph, const char* name, const char* of) {
  std::vector<T> result;
  if (!nb::try_cast(graph.attr(name), result)) {
    astra::refuse(std::string("graph: ") + name + " is not a sequence of " + of);
  }
  return result;
}

}  // namespace

astra::GraphSpec to_spec(nb::handle graph) {
  astra::GraphSpec spec;
  spec.names = sequence<std::string>(graph, "names", "strings");
  spec.type = column<std::uint8_t>(graph, "type");
  spec.rank_class = column<std::int32_t>(graph, "rank_class");
  spec.duration_ns = column<std::int64_t>(graph, "duration_ns");
  spec.size_bytes = column<std::int64_t>(graph, "size_bytes");
  spec.collective = column<std::uint8_t>(graph, "collective");
  spec.peer = column<std::int32_t>(graph, "peer");
  spec.tag = column<std::int32_t>(graph, "tag");
  spec.location = column<std::uint8_t>(graph, "location");
  spec.group = column<std::int32_t>(graph, "group");
  spec.is_cpu_op = flags(graph, "is_cpu_op");
  spec.involved_dims = column<std::uint32_t>(graph, "involved_dims");
  spec.priority = column<std::int32_t>(graph, "priority");
  spec.num_ops = column<std::int64_t>(graph, "num_ops");
  spec.device = column<std::int32_t>(graph, "device");
  spec.channel = column<std::int32_t>(graph, "channel");
  spec.program = column<std::int32_t>(graph, "program");
  spec.data_deps = {column<std::int32_t>(graph, "data_offsets"), column<std::int32_t>(graph, "data_deps")};
  spec.ctrl_deps = {column<std::int32_t>(graph, "ctrl_offsets"), column<std::int32_t>(graph, "ctrl_deps")};
  spec.rank_classes = sequence<std::vector<astra::Rank>>(graph, "rank_classes", "sequences of ranks");
  spec.groups = sequence<std::vector<astra::Rank>>(graph, "groups", "sequences of ranks");
  return spec;
}

}  // namespace bindings
