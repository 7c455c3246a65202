#include "astra/memory/expansion_memory.h"

#include "astra/base/errors.h"
#include "astra/base/truncate.h"

namespace astra {

ExpansionMemory::ExpansionMemory(const MemoryLevel& level, const char* where, EventQueue& events)
    : level_(level),
      where_(where),
      is_queued_(level.type != "PER_NPU_MEMORY_EXPANSION"),
      servers_(events, use_),
      channels_(events, use_),
      events_(events) {}

void ExpansionMemory::request(const MemoryAccess& access, LocalTimes& local, Call done) {
  const Time service = service_time(access);
  if (is_queued_) {
    count(access);
    servers_.serve(server(access), service, local, done);
  } else {
    count_timed(access, 1);
    events_.schedule_local(local, service, done);
  }
}

void ExpansionMemory::compute(const MemoryAccess& access, Time duration, LocalTimes& local, Call done) {
  count(access);
  // LLMServingSim's numbering, in which channels of different devices can coincide.
  const std::int64_t channel = level_.num_devices * access.device + access.channel;
  channels_.serve(static_cast<std::size_t>(channel), checked_sum(duration, service_time(access)), local, done);
}

Time ExpansionMemory::service_time(const MemoryAccess& access) const {
  return level_.latency_ns +
         (level_.bandwidth > 0 ? truncate(static_cast<double>(access.bytes) / level_.bandwidth) : 0);
}

void ExpansionMemory::check_access(const MemoryAccess& access, bool is_pim) const {
  const bool is_device_known = 0 <= access.device && access.device < level_.num_devices;
  if ((is_pim || level_.queues_per_device) && !is_device_known) {
    refuse("the " + where_ + " memory has no device " + std::to_string(access.device) + "; it has " +
           std::to_string(level_.num_devices) + ", counted from 0");
  }
  if (is_pim && (access.channel < 0 || access.channel >= level_.pim_channels)) {
    refuse("the " + where_ + " memory has no PIM channel " + std::to_string(access.channel) + "; it has " +
           std::to_string(level_.pim_channels) + " (pim_channels)");
  }
}

std::size_t ExpansionMemory::server(const MemoryAccess& access) const {
  if (level_.queues_per_device) return static_cast<std::size_t>(access.device);
  return level_.type == "MEMORY_POOL" ? 0 : static_cast<std::size_t>(access.rank / level_.npus_per_node);
}

}  // namespace astra
