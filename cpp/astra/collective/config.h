// How a rank's system layer turns collectives into messages; ASTRA-sim's names.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "astra/base/types.h"
#include "astra/collective/algorithm.h"
#include "astra/collective/bus.h"

namespace astra {

// Measured times of a collective over a number of ranks.
struct MeasuredTable {
  CollectiveType type = CollectiveType::kAllReduce;
  std::int64_t ranks = 0;
  std::vector<Bytes> sizes;  // ascending
  std::vector<Time> times;
};

struct SystemConfig {
  std::int64_t preferred_dataset_splits = 1;
  std::int64_t active_chunks_per_dimension = 1;
  std::int64_t num_queues_per_dim = 1;
  std::string scheduling_policy = "LIFO";
  std::string collective_optimization = "localBWAware";
  Time endpoint_delay_ns = 10;
  double local_mem_bandwidth = 0;  // bytes per second; 0 makes reductions free
  double peak_perf = 0;            // operations per second
  bool roofline_enabled = false;
  bool replay_only = false;
  bool rendezvous = false;
  Time local_reduction_delay_ns = 1;
  std::optional<BusConfig> shared_bus;
  Time zero_duration_ns = 0;  // what a COMP node of duration 0 takes (ASTRA-sim: 1)
  bool parity = false;        // keep ASTRA-sim's oddities
  std::string dialect = "astra-sim";
  bool record_nodes = false;
  // One algorithm name per network dimension.
  std::vector<std::string> all_reduce = {"ring"};
  std::vector<std::string> all_gather = {"ring"};
  std::vector<std::string> reduce_scatter = {"ring"};
  std::vector<std::string> all_to_all = {"ring"};
  // A user's own algorithms by the names that the lists use: the steps of (type, bytes, members, index).
  using Author = std::function<Program(CollectiveType, Bytes, std::int32_t, std::int32_t)>;
  std::map<std::string, Author> authors;
  std::vector<std::vector<Program>> programs;     // per set, per place in the communicator
  std::map<CollectiveType, std::int32_t> custom;  // sets of programs that replace algorithms
  std::vector<MeasuredTable> measured;

  Rules rules() const { return parity ? Rules::kAstraSim : Rules::kRight; }
  bool is_fork() const { return dialect == "llmservingsim"; }
};

// Raises std::invalid_argument naming the field.
void check_config(const SystemConfig& config);

}  // namespace astra
