// Devices behind ports and switches, whose bandwidth those share who use them.
#pragma once

#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "astra/base/slots.h"
#include "astra/memory/memory_model.h"
#include "astra/memory/servers.h"
#include "astra/network/max_min_flows.h"

namespace astra {

// An access is a flow (`MaxMinFlows`) over the links of its rank, those before its device, and the device itself. Links
// have two directions, one for loads and one for stores; a device has one bandwidth for both, of which a byte that is
// stored takes bandwidth / write_bandwidth as much as one that is loaded. An interleaved access runs at one rate, of
// which each device has an equal part.
class FlowMemory final : public MemoryModel, public EventTarget {
 public:
  // The level is checked.
  FlowMemory(const MemoryLevel& level, const char* where, EventQueue& events);

  void request(const MemoryAccess& access, LocalTimes& local, Call done) override;
  void compute(const MemoryAccess& access, Time duration, LocalTimes& local, Call done) override;
  bool is_contention_free() const override { return false; }
  Time service_time(const MemoryAccess& access) const override;
  void check_access(const MemoryAccess& access, bool is_pim) const override;
  MemoryUse use() const override;
  // Of every link for loads, then for stores; then of the devices.
  std::vector<LinkUse> link_use() const override { return flows_.use(); }

  // An access has left its links.
  void fire(std::uint32_t code, std::uint64_t arg) override;

 private:
  struct Way {
    std::vector<std::int32_t> devices;
    std::vector<LinkIndex> route;
    Spread spread;
    bool is_spread = false;
    double latency_ns = 0;
    double rate = 0;  // of an access that is alone; 0: of any speed
  };

  const Way& way(const MemoryAccess& access) const;
  Way find_way(const MemoryAccess& access) const;
  void cross(Way& way, LinkIndex link, double bytes, double load) const;

  MemoryLevel level_;
  std::string where_;
  EventQueue& events_;
  MaxMinFlows flows_;
  Servers pim_;
  std::vector<double> bandwidths_;  // of the flows' links
  mutable std::map<std::tuple<Rank, std::int32_t, bool>, Way> ways_;
  Slots<const Way*> under_way_;              // of the flows
  std::vector<std::int64_t> queue_lengths_;  // by device
};

}  // namespace astra
