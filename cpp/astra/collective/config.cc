#include "astra/collective/config.h"

#include <cmath>

#include "astra/base/errors.h"

namespace astra {
namespace {

void at_least(const char* field, std::int64_t value, std::int64_t least) {
  if (value < least) {
    refuse(std::string("system: ") + field + " must be at least " + std::to_string(least) + ", not " +
           std::to_string(value));
  }
}

}  // namespace

void check_config(const SystemConfig& config) {
  at_least("preferred_dataset_splits", config.preferred_dataset_splits, 1);
  at_least("active_chunks_per_dimension", config.active_chunks_per_dimension, 1);
  at_least("endpoint_delay_ns", config.endpoint_delay_ns, 0);
  at_least("zero_duration_ns", config.zero_duration_ns, 0);
  const std::string& policy = config.scheduling_policy;
  if (policy != "LIFO" && policy != "FIFO" && policy != "EXPLICIT") {
    refuse("system: scheduling_policy '" + policy + "' is not one of EXPLICIT, FIFO, LIFO");
  }
  if (!(config.local_mem_bandwidth >= 0) || !std::isfinite(config.local_mem_bandwidth)) {
    refuse("system: local_mem_bandwidth must not be negative, not " + std::to_string(config.local_mem_bandwidth));
  }
}

}  // namespace astra
