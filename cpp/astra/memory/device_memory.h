// Devices with channels, behind the network or not: who queues depends on what is asked.
#pragma once

#include <deque>
#include <string>

#include "astra/base/slots.h"
#include "astra/memory/servers.h"
#include "astra/memory/shared_server.h"
#include "astra/network/network.h"

namespace astra {

// An access is served by its device and moves over the network, both from its start on; it ends when both have ended.
// One that is interleaved is a stripe on each of its devices and ends with the last of them.
class DeviceMemory final : public MemoryModel, public EventTarget {
 public:
  // The level is checked.
  DeviceMemory(const MemoryLevel& level, const char* where, Network& network, EventQueue& events);

  void request(const MemoryAccess& access, LocalTimes& local, Call done) override;
  void compute(const MemoryAccess& access, Time duration, LocalTimes& local, Call done) override;
  bool is_contention_free() const override { return false; }
  Time service_time(const MemoryAccess& access) const override;
  void check_access(const MemoryAccess& access, bool is_pim) const override;

  void fire(std::uint32_t code, std::uint64_t arg) override;

 private:
  // An access of which several parts are under way.
  struct Whole {
    std::int64_t parts = 0;
    Call done;
  };
  struct Path {
    Rank from;
    Rank to;
  };

  std::vector<MemoryAccess> stripes(const MemoryAccess& access) const;
  bool moves(const MemoryAccess& stripe) const;
  Path path(const MemoryAccess& stripe) const;
  const MemoryRate& rate(const MemoryAccess& stripe) const;
  double transfer_time(const MemoryAccess& stripe) const;
  Time device_time(const MemoryAccess& stripe) const;
  void serve(const MemoryAccess& stripe, LocalTimes& local, Call done);

  MemoryLevel level_;
  std::string where_;
  std::vector<MemoryRate> rates_;  // one for all devices, or one each
  bool is_shared_;
  Servers channels_;
  std::deque<SharedServer> devices_;  // shared
  Servers pim_;
  Slots<Whole> wholes_;
  Network& network_;
};

}  // namespace astra
