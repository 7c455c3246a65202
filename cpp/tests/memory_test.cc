#include <vector>

#include "astra/memory/memory_model.h"
#include "check.h"

namespace {

using astra::EventQueue;
using astra::LocalTimes;
using astra::MemoryLevel;

class Ends final : public astra::EventTarget {
 public:
  explicit Ends(EventQueue& events) : events_(events) {}
  void fire(std::uint32_t, std::uint64_t) override { at.push_back(events_.now()); }
  std::vector<astra::Time> at;

 private:
  EventQueue& events_;
};

// Ranks 0, 1 and 2 of 4 ask for 100 bytes at once; returns when each was served.
std::vector<astra::Time> served(const char* type) {
  EventQueue events;
  Ends ends(events);
  const auto memory = astra::make_memory(MemoryLevel{type, 5, 10.0, 2}, "remote", 4, events);
  std::vector<LocalTimes> ranks(3);
  for (astra::Rank rank = 0; rank < 3; ++rank) {
    memory->request(rank, ranks[static_cast<std::size_t>(rank)], 100, {&ends, 0, 0});
  }
  while (!events.empty()) events.fire_next();
  return ends.at;
}

void queues_behind_whom_it_should() {
  CHECK(served("PER_NPU_MEMORY_EXPANSION") == std::vector<astra::Time>({15, 15, 15}));
  CHECK(served("PER_NODE_MEMORY_EXPANSION") == std::vector<astra::Time>({15, 15, 30}));
  CHECK(served("MEMORY_POOL") == std::vector<astra::Time>({15, 30, 45}));
}

void costs_latency_alone_without_bandwidth() {
  EventQueue events;
  const auto memory = astra::make_memory(MemoryLevel{"MEMORY_POOL", 5, 0.0, 1}, "remote", 4, events);
  CHECK(memory->service_time(1 << 20) == 5);
}

void refuses_wrong_levels() {
  EventQueue events;
  CHECK(astra::make_memory(MemoryLevel{}, "remote", 4, events) == nullptr);
  CHECK_THROWS(astra::make_memory(MemoryLevel{"POOL", 0, 0, 1}, "remote", 4, events), std::invalid_argument);
  CHECK_THROWS(astra::make_memory(MemoryLevel{"MEMORY_POOL", -1, 0, 1}, "remote", 4, events), std::invalid_argument);
  CHECK_THROWS(astra::make_memory(MemoryLevel{"PER_NODE_MEMORY_EXPANSION", 0, 0, 0}, "remote", 4, events),
               std::invalid_argument);
}

}  // namespace

Tests memory_tests() {
  return {
      {"nobody queues per NPU, a node's ranks per node, all in a pool", queues_behind_whom_it_should},
      {"a memory without bandwidth costs its latency alone", costs_latency_alone_without_bandwidth},
      {"wrong memory levels are refused", refuses_wrong_levels},
  };
}
