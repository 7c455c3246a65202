// How many links lie between two ranks of one dimension.
#pragma once

#include <memory>
#include <string>

#include "astra/base/types.h"

namespace astra {

class Topology {
 public:
  virtual ~Topology() = default;
  // Links crossed from position `from` to another position `to`.
  virtual std::int64_t hops(std::int64_t from, std::int64_t to) const = 0;
};

// `name` is Ring, FullyConnected or Switch.
std::unique_ptr<Topology> make_topology(const std::string& name, std::int64_t npus);

}  // namespace astra
