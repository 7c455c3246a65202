// Numpy arrays in and out.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <string>
#include <vector>

#include "astra/simulation.h"

namespace bindings {

// A view of a C-contiguous int64 array of shape [nodes] or [steps, nodes], held while it lives; None is empty.
class ValuesView {
 public:
  ValuesView(nanobind::handle array, std::size_t nodes, const char* name);
  ~ValuesView();
  ValuesView(const ValuesView&) = delete;
  ValuesView& operator=(const ValuesView&) = delete;

  astra::Values values() const { return values_; }
  std::size_t dimensions() const { return dimensions_; }

 private:
  void check(std::size_t nodes, const char* name);

  Py_buffer buffer_{};
  bool is_held_ = false;
  std::size_t dimensions_ = 0;
  astra::Values values_;
};

// The graph of `llmservingsim.graph.Graph`.
astra::GraphSpec to_spec(nanobind::handle graph);

}  // namespace bindings
