// Memories that serve loads and stores: latency plus size over bandwidth, with or without queueing.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "astra/base/types.h"
#include "astra/event/event_queue.h"

namespace astra {

// One memory level; ASTRA-sim's names.
struct MemoryLevel {
  std::string type = "NO_MEMORY_EXPANSION";
  Time latency_ns = 0;
  double bandwidth = 0;  // bytes per nanosecond; 0 costs the latency alone
  std::int64_t npus_per_node = 1;
  std::int64_t num_devices = 1;
  std::int64_t pim_channels = 0;
  // Who shares a server of PER_NODE and MEMORY_POOL: accesses of one device (LLMServingSim) instead of one node.
  bool queues_per_device = false;
};

struct MemoryConfig {
  MemoryLevel local;
  MemoryLevel remote;
  MemoryLevel cxl;
  MemoryLevel storage;
};

struct MemoryAccess {
  Rank rank = 0;
  std::int32_t device = 0;
  std::int32_t channel = 0;
  bool is_store = false;
  Bytes bytes = 0;
};

class MemoryModel {
 public:
  virtual ~MemoryModel() = default;
  // Starts an access; `done` is called when it has been served.
  virtual void request(const MemoryAccess& access, LocalTimes& local, Call done) = 0;
  // Computes for `duration` in the memory's channel, where the operand is read (PIM_COMP).
  virtual void compute(const MemoryAccess& access, Time duration, LocalTimes& local, Call done) = 0;
  // Whether an access takes its service time whatever others do.
  virtual bool is_contention_free() const = 0;
  // Of an access that is alone.
  virtual Time service_time(const MemoryAccess& access) const = 0;
  // Raises std::invalid_argument if the level has no such device, or no such channel of it.
  virtual void check_access(const MemoryAccess& access, bool is_pim) const = 0;
};

// Returns nothing for NO_MEMORY_EXPANSION. `where` names the level in messages.
std::unique_ptr<MemoryModel> make_memory(const MemoryLevel& level, const char* where, std::int64_t npus,
                                         EventQueue& events);

}  // namespace astra
