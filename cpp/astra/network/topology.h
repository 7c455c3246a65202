// Devices and the links between them: which of these a message crosses.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "astra/base/types.h"
#include "astra/network/config.h"
#include "astra/network/route_cache.h"

namespace astra {

// What the links of a route amount to for a message that is alone on them.
struct Path {
  double latency_ns = 0;
  double bandwidth = std::numeric_limits<double>::infinity();  // of the narrowest link
};

// Links are numbered from 0 as routes come to need them, so that state per link costs no more than what is used.
class Topology {
 public:
  // `devices` are ranks, whose number is the product of `shape`, then endpoints of memories, then switches.
  Topology(std::vector<std::int64_t> shape, std::int64_t endpoints);
  virtual ~Topology() = default;
  Topology(const Topology&) = delete;
  Topology& operator=(const Topology&) = delete;

  const std::vector<std::int64_t>& shape() const { return shape_; }
  std::int64_t npus() const { return npus_; }
  std::int64_t endpoints() const { return endpoints_; }
  // Links numbered so far.
  const std::vector<Link>& links() const { return links_; }
  // Links crossed, in order; empty from a device to itself. Valid as long as the topology. Raises
  // std::invalid_argument if there is no way.
  std::span<const LinkIndex> route(Rank from, Rank to);
  virtual Path path(Rank from, Rank to);
  // Whether two routes have links of the same latencies and bandwidths in the same order.
  virtual bool are_alike(Rank a, Rank b, Rank c, Rank d);

 protected:
  LinkIndex add_link(const Link& link);
  virtual std::vector<LinkIndex> find_route(Rank from, Rank to) = 0;

 private:
  std::vector<std::int64_t> shape_;
  std::int64_t npus_ = 1;
  std::int64_t endpoints_ = 0;
  std::vector<Link> links_;
  RouteCache routes_;
};

}  // namespace astra
