#include "astra/network/fabric_topology.h"

#include <algorithm>

#include "astra/base/errors.h"

namespace astra {
namespace {

// Sorts links by one of their ends, keeping their order otherwise.
void sort_by(std::int32_t Link::* end, const std::vector<Link>& links, std::vector<LinkIndex>& sorted,
             std::vector<std::size_t>& offsets) {
  for (const Link& link : links) {
    ++offsets[static_cast<std::size_t>(link.*end) + 1];
  }
  for (std::size_t i = 1; i < offsets.size(); ++i) {
    offsets[i] += offsets[i - 1];
  }
  std::vector<std::size_t> next(offsets.begin(), offsets.end() - 1);
  sorted.resize(links.size());
  for (std::size_t i = 0; i < links.size(); ++i) {
    sorted[next[static_cast<std::size_t>(links[i].*end)]++] = static_cast<LinkIndex>(i);
  }
}

// Different at every device, or all forks on a way would choose alike.
std::uint64_t hash(Rank from, Rank to, Rank at) {
  std::uint64_t h = 0;
  for (const Rank value : {from, to, at}) {
    h = (h ^ static_cast<std::uint64_t>(value)) * 0x9E3779B97F4A7C15ULL;
    h ^= h >> 29;
  }
  return h * 0x94D049BB133111EBULL >> 32;
}

}  // namespace

FabricTopology::FabricTopology(const NetworkConfig& config)
    : Topology(config.npus_count, config.fabric.endpoints), ask_(config.fabric.route) {
  devices_ = endpoints() + config.fabric.switches;
  leaving_offsets_.resize(static_cast<std::size_t>(devices_) + 1);
  entering_offsets_.resize(static_cast<std::size_t>(devices_) + 1);
  sort_by(&Link::from, config.fabric.links, leaving_, leaving_offsets_);
  sort_by(&Link::to, config.fabric.links, entering_, entering_offsets_);
  for (const Link& link : config.fabric.links) {
    add_link(link);
  }
}

std::string FabricTopology::name(std::int32_t device) const {
  if (device < npus()) {
    return "rank " + std::to_string(device);
  }
  const bool is_endpoint = device < endpoints();
  const std::int64_t index = device - (is_endpoint ? npus() : endpoints());
  return (is_endpoint ? "endpoint " : "switch ") + std::to_string(index) + " (device " + std::to_string(device) + ")";
}

std::vector<LinkIndex> FabricTopology::find_route(Rank from, Rank to) {
  return ask_ ? asked_route(from, to) : shortest_route(from, to);
}

std::vector<LinkIndex> FabricTopology::asked_route(Rank from, Rank to) const {
  const std::vector<std::int32_t> asked = ask_(from, to);
  const std::string what = "network: the route from " + name(from) + " to " + name(to) + " ";
  std::vector<LinkIndex> route;
  Rank at = from;
  for (const std::int32_t index : asked) {
    if (index < 0 || static_cast<std::size_t>(index) >= links().size()) {
      refuse(what + "has link " + std::to_string(index) + "; there are links 0 to " +
             std::to_string(links().size() - 1));
    }
    const Link& link = links()[static_cast<std::size_t>(index)];
    if (link.from != at) {
      refuse(what + "is at " + name(at) + " when it takes link " + std::to_string(index) + ", which leaves " +
             name(link.from));
    }
    route.push_back(static_cast<LinkIndex>(index));
    at = link.to;
  }
  if (at != to) {
    refuse(what + (route.empty() ? "is empty" : "ends at " + name(at)));
  }
  std::vector<LinkIndex> sorted = route;
  std::sort(sorted.begin(), sorted.end());
  if (const auto twice = std::adjacent_find(sorted.begin(), sorted.end()); twice != sorted.end()) {
    refuse(what + "takes link " + std::to_string(*twice) + " twice");
  }
  return route;
}

std::vector<LinkIndex> FabricTopology::shortest_route(Rank from, Rank to) {
  const std::vector<std::int32_t>& distance = distances(to);
  if (distance[static_cast<std::size_t>(from)] == kUnreachable) {
    refuse("network: no links lead from " + name(from) + " to " + name(to));
  }
  std::vector<LinkIndex> route;
  std::vector<LinkIndex> nearer;
  for (Rank at = from; at != to; at = links()[route.back()].to) {
    const auto device = static_cast<std::size_t>(at);
    nearer.clear();
    for (std::size_t i = leaving_offsets_[device]; i < leaving_offsets_[device + 1]; ++i) {
      if (distance[static_cast<std::size_t>(links()[leaving_[i]].to)] == distance[device] - 1) {
        nearer.push_back(leaving_[i]);
      }
    }
    route.push_back(nearer[hash(from, to, at) % nearer.size()]);
  }
  return route;
}

const std::vector<std::int32_t>& FabricTopology::distances(Rank to) {
  const auto [entry, is_new] = distances_.try_emplace(to);
  std::vector<std::int32_t>& distance = entry->second;
  if (!is_new) {
    return distance;
  }
  distance.assign(static_cast<std::size_t>(devices_), kUnreachable);
  distance[static_cast<std::size_t>(to)] = 0;
  std::vector<std::int32_t> reached{to};
  for (std::size_t i = 0; i < reached.size(); ++i) {
    const auto device = static_cast<std::size_t>(reached[i]);
    for (std::size_t j = entering_offsets_[device]; j < entering_offsets_[device + 1]; ++j) {
      const std::int32_t before = links()[entering_[j]].from;
      if (distance[static_cast<std::size_t>(before)] == kUnreachable) {
        distance[static_cast<std::size_t>(before)] = distance[device] + 1;
        reached.push_back(before);
      }
    }
  }
  return distance;
}

}  // namespace astra
