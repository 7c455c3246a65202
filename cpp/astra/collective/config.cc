#include "astra/collective/config.h"

#include <cmath>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"

namespace astra {
namespace {

void within(const char* field, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value < least || value > most) {
    refuse(std::string("system: ") + field + " must be between " + std::to_string(least) + " and " +
           std::to_string(most) + ", not " + std::to_string(value));
  }
}

}  // namespace

void check_config(const SystemConfig& config) {
  constexpr auto kMostTime = static_cast<Time>(kLongest);
  within("preferred_dataset_splits", config.preferred_dataset_splits, 1, kMostCount);
  within("active_chunks_per_dimension", config.active_chunks_per_dimension, 1, kMostCount);
  within("endpoint_delay_ns", config.endpoint_delay_ns, 0, kMostTime);
  within("zero_duration_ns", config.zero_duration_ns, 0, kMostTime);
  const std::string& policy = config.scheduling_policy;
  if (policy != "LIFO" && policy != "FIFO" && policy != "EXPLICIT") {
    refuse("system: scheduling_policy '" + policy + "' is not one of EXPLICIT, FIFO, LIFO");
  }
  if (!(config.local_mem_bandwidth >= 0) || !std::isfinite(config.local_mem_bandwidth)) {
    refuse("system: local_mem_bandwidth must not be negative, not " + std::to_string(config.local_mem_bandwidth));
  }
}

}  // namespace astra
