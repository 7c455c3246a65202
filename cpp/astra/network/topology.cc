#include "astra/network/topology.h"

#include <algorithm>
#include <utility>

#include "astra/base/errors.h"

namespace astra {

Topology::Topology(std::vector<std::int64_t> shape, std::int64_t endpoints) : shape_(std::move(shape)) {
  for (const std::int64_t count : shape_) {
    npus_ *= count;
  }
  endpoints_ = npus_ + endpoints;
}

LinkIndex Topology::add_link(const Link& link) {
  links_.push_back(link);
  return static_cast<LinkIndex>(links_.size() - 1);
}

std::span<const LinkIndex> Topology::route(Rank from, Rank to) {
  if (from == to) {
    return {};
  }
  std::span<const LinkIndex> route = routes_.find(from, to);
  if (route.empty()) {
    route = routes_.keep(from, to, find_route(from, to));
  }
  return route;
}

Path Topology::path(Rank from, Rank to) {
  Path path;
  for (const LinkIndex index : route(from, to)) {
    path.latency_ns += links_[index].latency_ns;
    path.bandwidth = std::min(path.bandwidth, links_[index].bandwidth);
  }
  return path;
}

bool Topology::are_alike(Rank a, Rank b, Rank c, Rank d) {
  const std::span<const LinkIndex> first = route(a, b);
  const std::span<const LinkIndex> second = route(c, d);
  return std::equal(first.begin(), first.end(), second.begin(), second.end(), [this](LinkIndex i, LinkIndex j) {
    return links_[i].latency_ns == links_[j].latency_ns && links_[i].bandwidth == links_[j].bandwidth;
  });
}

}  // namespace astra
