#include "astra/network/topology.h"

#include <algorithm>

#include "astra/base/errors.h"

namespace astra {
namespace {

class Ring final : public Topology {
 public:
  explicit Ring(std::int64_t npus) : npus_(npus) {}

  std::int64_t hops(std::int64_t from, std::int64_t to) const override {
    const std::int64_t clockwise = (to - from + npus_) % npus_;
    return std::min(clockwise, npus_ - clockwise);
  }

 private:
  std::int64_t npus_;
};

class FullyConnected final : public Topology {
 public:
  std::int64_t hops(std::int64_t, std::int64_t) const override { return 1; }
};

class Switch final : public Topology {
 public:
  std::int64_t hops(std::int64_t, std::int64_t) const override { return 2; }
};

}  // namespace

std::unique_ptr<Topology> make_topology(const std::string& name, std::int64_t npus) {
  if (name == "Ring") return std::make_unique<Ring>(npus);
  if (name == "FullyConnected") return std::make_unique<FullyConnected>();
  if (name == "Switch") return std::make_unique<Switch>();
  refuse("network topology '" + name + "' is not one of FullyConnected, Ring, Switch");
}

}  // namespace astra
