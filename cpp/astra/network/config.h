// What describes a network.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace astra {

// One direction of a cable.
struct Link {
  std::int32_t from = 0;  // devices: ranks first, then endpoints of memories, then switches
  std::int32_t to = 0;
  double bandwidth = 0;  // bytes per nanosecond
  double latency_ns = 0;
};

// A network of arbitrary links.
struct Fabric {
  std::int32_t endpoints = 0;  // devices that send and receive besides the ranks: memories
  std::int32_t switches = 0;
  std::vector<Link> links;
  // Links in order from one device to another; none: the shortest path, equally short ones chosen by a hash. Asked
  // once per pair.
  std::function<std::vector<std::int32_t>(std::int32_t, std::int32_t)> route;
};

// One entry per dimension; dimension 0 is the innermost.
struct NetworkConfig {
  std::vector<std::string> topology;     // empty when a fabric is given
  std::vector<std::int64_t> npus_count;  // with a fabric: the logical shape over which collectives are decomposed
  std::vector<double> bandwidth;         // bytes per nanosecond of a link
  std::vector<double> latency_ns;        // per link crossed
  // unaware: messages never wait for each other. aware: links carry one message at a time, store and forward, as
  // ASTRA-sim's. flow: messages on a link share it, max-min fair.
  std::string model = "unaware";
  Fabric fabric = {};
  bool parity = false;  // keep ASTRA-sim's oddities
  // Of these: the aware network aborts when a link is free again at time 0. LLMServingSim's fork dropped that check.
  bool refuses_time_zero = false;
};

}  // namespace astra
