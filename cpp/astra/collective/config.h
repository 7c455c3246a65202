// How a rank's system layer turns collectives into messages; ASTRA-sim's names.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "astra/base/types.h"

namespace astra {

struct SystemConfig {
  std::int64_t preferred_dataset_splits = 1;
  std::int64_t active_chunks_per_dimension = 1;
  std::string scheduling_policy = "LIFO";  // EXPLICIT: all collectives have equal priority
  Time endpoint_delay_ns = 10;
  double local_mem_bandwidth = 0;  // bytes per second; 0 makes reductions free
  Time zero_duration_ns = 0;       // what a COMP node of duration 0 takes (ASTRA-sim: 1)
  // Keep ASTRA-sim's oddities: groups smaller than the system pay 10 ns instead of the endpoint delay, collectives of
  // nothing or of one rank never complete, instant nodes trigger no issue pass.
  bool parity = false;
  // One algorithm name per network dimension.
  std::vector<std::string> all_reduce = {"ring"};
  std::vector<std::string> all_gather = {"ring"};
  std::vector<std::string> reduce_scatter = {"ring"};
  std::vector<std::string> all_to_all = {"ring"};
};

// Raises std::invalid_argument naming the field.
void check_config(const SystemConfig& config);

}  // namespace astra
