// What describes a network, one entry per dimension (dimension 0 is the innermost).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace astra {

struct NetworkConfig {
  std::vector<std::string> topology;
  std::vector<std::int64_t> npus_count;
  std::vector<double> bandwidth;   // bytes per nanosecond of a link
  std::vector<double> latency_ns;  // per link crossed
};

}  // namespace astra
