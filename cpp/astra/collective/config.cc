#include "astra/collective/config.h"

#include <algorithm>
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

void one_of(const char* field, const std::string& value, const std::vector<std::string>& known) {
  if (std::find(known.begin(), known.end(), value) != known.end()) {
    return;
  }
  std::string list;
  for (const std::string& name : known) {
    list += (list.empty() ? "" : ", ") + name;
  }
  refuse(std::string("system: ") + field + " '" + value + "' is not one of " + list);
}

void not_negative(const char* field, double value) {
  if (!(value >= 0) || !std::isfinite(value)) {
    refuse(std::string("system: ") + field + " must not be negative, not " + std::to_string(value));
  }
}

void check_table(const MeasuredTable& table) {
  const bool is_rising = std::is_sorted(table.sizes.begin(), table.sizes.end(), std::less_equal<>{});
  if (table.sizes.empty() || table.sizes.size() != table.times.size() || !is_rising) {
    refuse("system: measured collectives need as many times as sizes, at least one, sizes ascending");
  }
  within("measured size", table.sizes.front(), 0, std::int64_t{1} << 59);
  for (const Time time : table.times) {
    within("measured time", time, 0, static_cast<Time>(kLongest));
  }
}

void check_programs(const SystemConfig& config) {
  for (const auto& [type, set] : config.custom) {
    within("custom", set, 0, static_cast<std::int64_t>(config.programs.size()) - 1);
  }
  for (const std::vector<Program>& set : config.programs) {
    for (std::size_t place = 0; place < set.size(); ++place) {
      check_program(set[place], static_cast<std::int32_t>(set.size()), static_cast<std::int32_t>(place));
    }
  }
}

}  // namespace

void check_config(const SystemConfig& config) {
  constexpr auto kMostTime = static_cast<Time>(kLongest);
  within("preferred_dataset_splits", config.preferred_dataset_splits, 1, kMostCount);
  within("active_chunks_per_dimension", config.active_chunks_per_dimension, 1, kMostCount);
  within("num_queues_per_dim", config.num_queues_per_dim, 1, 1 << 10);
  within("endpoint_delay_ns", config.endpoint_delay_ns, 0, kMostTime);
  within("zero_duration_ns", config.zero_duration_ns, 0, kMostTime);
  within("local_reduction_delay_ns", config.local_reduction_delay_ns, 0, 1'000'000'000);
  one_of("scheduling_policy", config.scheduling_policy, {"EXPLICIT", "FIFO", "LIFO"});
  one_of("collective_optimization", config.collective_optimization, {"baseline", "localBWAware"});
  one_of("dialect", config.dialect, {"astra-sim", "llmservingsim"});
  not_negative("local_mem_bandwidth", config.local_mem_bandwidth);
  not_negative("peak_perf", config.peak_perf);
  if (config.roofline_enabled && (config.peak_perf == 0 || config.local_mem_bandwidth == 0)) {
    refuse("system: roofline timing needs peak_perf and local_mem_bandwidth above 0");
  }
  if (config.shared_bus.has_value()) {
    within("shared_bus L", config.shared_bus->L, 0, 1'000'000'000);
    within("shared_bus o", config.shared_bus->o, 0, 1'000'000'000);
    within("shared_bus g", config.shared_bus->g, 0, 1'000'000'000);
    not_negative("shared_bus G", config.shared_bus->G);
  }
  std::for_each(config.measured.begin(), config.measured.end(), check_table);
  check_programs(config);
}

}  // namespace astra
