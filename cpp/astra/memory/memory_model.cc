#include "astra/memory/memory_model.h"

#include <numeric>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"

namespace astra {

void MemoryModel::count_timed(const MemoryAccess& access, std::int64_t times) {
  count(access, times);
  use_.busy_ns = saturating_sum(use_.busy_ns, saturating_product(times, service_time(access)));
}

void MemoryModel::count(const MemoryAccess& access, std::int64_t times) {
  Bytes& moved = access.is_store ? use_.bytes_stored : use_.bytes_loaded;
  moved = saturating_sum(moved, saturating_product(times, access.bytes));
  use_.accesses = saturating_sum(use_.accesses, times);
}

std::vector<std::int32_t> interleaved_devices(const MemoryLevel& level, std::int32_t device) {
  if (device >= 0) {
    return {device};
  }
  if (device < -1) {
    return level.interleaves[static_cast<std::size_t>(-2 - device)];
  }
  std::vector<std::int32_t> all(static_cast<std::size_t>(level.num_devices));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

void check_device(const MemoryLevel& level, const std::string& where, std::int32_t device, bool is_pim) {
  const auto sets = static_cast<std::int32_t>(level.interleaves.size());
  if (device < (is_pim ? 0 : -1 - sets) || device >= level.num_devices) {
    refuse("the " + where + " memory has no device " + std::to_string(device) + "; it has " +
           std::to_string(level.num_devices) + ", counted from 0" + (is_pim ? "" : "; -1 is a stripe on each"));
  }
}

void check_channel(const MemoryLevel& level, const std::string& where, std::int32_t channel) {
  if (channel < 0 || channel >= level.pim_channels) {
    refuse("the " + where + " memory has no PIM channel " + std::to_string(channel) + "; it has " +
           std::to_string(level.pim_channels) + " per device (pim_channels)");
  }
}

}  // namespace astra
