// Memories that serve loads and stores: latency plus size over bandwidth, with or without queueing.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
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
};

struct MemoryConfig {
  MemoryLevel local;
  MemoryLevel remote;
};

class MemoryModel {
 public:
  virtual ~MemoryModel() = default;
  // Starts an access by `rank`; `done` is called when it has been served.
  virtual void request(Rank rank, LocalTimes& local, Bytes bytes, Call done) = 0;
  // Whether an access takes its service time whatever others do.
  virtual bool is_contention_free() const = 0;
  virtual Time service_time(Bytes bytes) const = 0;
};

// Returns nothing for NO_MEMORY_EXPANSION. `where` names the level in messages.
std::unique_ptr<MemoryModel> make_memory(const MemoryLevel& level, const char* where, std::int64_t npus,
                                         EventQueue& events);

}  // namespace astra
