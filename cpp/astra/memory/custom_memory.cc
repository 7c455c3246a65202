#include "astra/memory/custom_memory.h"

#include "astra/base/errors.h"
#include "astra/base/truncate.h"

namespace astra {

CustomMemory::CustomMemory(const MemoryLevel& level, const char* where, EventQueue& events)
    : level_(level), name_(std::string(where) + " memory " + level.type), servers_(events, use_), events_(events) {}

void CustomMemory::request(const MemoryAccess& access, LocalTimes& local, Call done) {
  serve(access, service_time(access), local, done);
}

void CustomMemory::compute(const MemoryAccess& access, Time duration, LocalTimes& local, Call done) {
  serve(access, checked_sum(duration, service_time(access)), local, done);
}

void CustomMemory::serve(const MemoryAccess& access, Time service, LocalTimes& local, Call done) {
  const Server who = server(access);
  count(access);
  if (who.has_value()) {
    servers_.serve(place_.try_emplace(*who, place_.size()).first->second, service, local, done);
    return;
  }
  use_.busy_ns = saturating_sum(use_.busy_ns, service);
  events_.schedule_local(local, service, done);
}

Time CustomMemory::service_time(const MemoryAccess& access) const {
  const auto key = std::tuple(access.device, access.channel, access.is_store, access.bytes);
  const auto known = services_ns_.find(key);
  if (known != services_ns_.end()) {
    return known->second;
  }
  const Time service = level_.service_ns(access);
  if (service < 0 || service > static_cast<Time>(kLongest)) {
    refuse("the " + name_ + ": service_ns must be between 0 and 10^18, not " + std::to_string(service));
  }
  services_ns_.emplace(key, service);
  return service;
}

CustomMemory::Server CustomMemory::server(const MemoryAccess& access) const {
  if (level_.server == nullptr) {
    return std::nullopt;
  }
  const auto key = std::tuple(access.rank, access.device, access.channel);
  const auto known = server_of_.find(key);
  if (known != server_of_.end()) {
    return known->second;
  }
  const Server who = level_.server(access);
  server_of_.emplace(key, who);
  return who;
}

// The user's class says what exists; asking it here shows its refusals before anything runs.
void CustomMemory::check_access(const MemoryAccess& access, bool) const { server(access); }

}  // namespace astra
