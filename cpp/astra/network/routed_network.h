// What the models of congestion have in common.
#pragma once

#include <memory>
#include <utility>

#include "astra/network/network.h"
#include "astra/network/topology.h"

namespace astra {

// Messages take their topology's routes, and how long they take depends on each other.
class RoutedNetwork : public Network {
 public:
  std::int64_t npus() const final { return topology_->npus(); }
  const std::vector<std::int64_t>& shape() const final { return topology_->shape(); }
  std::int64_t endpoints() const final { return topology_->endpoints(); }
  const std::vector<Link>& links() const final { return topology_->links(); }
  std::optional<Time> fixed_delay(Rank, Rank, Bytes) const override { return std::nullopt; }
  bool are_alike(Rank, Rank, Rank, Rank) const override { return false; }

 protected:
  RoutedNetwork(std::unique_ptr<Topology> topology, EventQueue& events)
      : topology_(std::move(topology)), events_(events) {}

  Topology& topology() const { return *topology_; }  // finds and keeps routes while it is asked
  EventQueue& events() { return events_; }
  Time now() const { return events_.now(); }

 private:
  std::unique_ptr<Topology> topology_;
  EventQueue& events_;
};

}  // namespace astra
