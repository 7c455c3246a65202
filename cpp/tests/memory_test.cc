#include <stdexcept>
#include <string>

#include "check.h"
#include "memory_bench.h"

namespace {

using astra::MemoryAccess;
using astra::MemoryLevel;

MemoryLevel level(const char* type) {
  MemoryLevel result{type, 5, 10.0, 2};
  result.num_devices = 2;
  result.pim_channels = 2;
  return result;
}

// Ranks 0, 1 and 2 ask for 100 bytes at once, of devices 1, 0 and 1; returns when each was served.
Times served(const MemoryLevel& level) {
  MemoryBench bench(level);
  bench.at(0, {.rank = 0, .device = 1, .bytes = 100});
  bench.at(0, {.rank = 1, .device = 0, .bytes = 100});
  bench.at(0, {.rank = 2, .device = 1, .bytes = 100});
  return bench.run();
}

// 5 + floor(100 / 10) = 15 alone.
void queues_behind_whom_it_should() {
  CHECK(served(level("PER_NPU_MEMORY_EXPANSION")) == Times({15, 15, 15}));
  CHECK(served(level("PER_NODE_MEMORY_EXPANSION")) == Times({15, 30, 15}));
  CHECK(served(level("MEMORY_POOL")) == Times({15, 30, 45}));
  for (const char* type : {"PER_NODE_MEMORY_EXPANSION", "MEMORY_POOL"}) {
    MemoryLevel per_device = level(type);
    per_device.queues_per_device = true;
    CHECK(served(per_device) == Times({15, 15, 30}));
  }
}

// Channel 1 of device 0 and channel 0 of device 1 have numbers 2 * 0 + 1 and 2 * 1 + 0; each computes 7 + 15.
void computes_in_channels() {
  MemoryBench bench(level("MEMORY_POOL"));
  bench.compute_at(0, {.device = 0, .channel = 1, .bytes = 100}, 7);
  bench.compute_at(0, {.device = 1, .channel = 0, .bytes = 100}, 7);
  bench.compute_at(0, {.device = 1, .channel = 0, .bytes = 100}, 7);
  bench.at(0, {.bytes = 100});
  CHECK(bench.run() == Times({22, 22, 44, 15}));
  CHECK(bench.memory->use().busy_ns == 3 * 22 + 15);
}

void costs_latency_alone_without_bandwidth() {
  MemoryLevel no_bandwidth = level("MEMORY_POOL");
  no_bandwidth.bandwidth = 0;
  CHECK(MemoryBench(no_bandwidth).memory->service_time({.bytes = 1 << 20}) == 5);
}

void counts_what_it_did() {
  MemoryBench bench(level("MEMORY_POOL"));
  bench.at(0, {.rank = 0, .bytes = 100});
  bench.at(0, {.rank = 1, .is_store = true, .bytes = 40});
  bench.at(100, {.rank = 0, .bytes = 60});
  CHECK(bench.run() == Times({15, 24, 111}));
  const astra::MemoryUse& use = bench.memory->use();
  CHECK(use.accesses == 3 && use.bytes_loaded == 160 && use.bytes_stored == 40);
  CHECK(use.busy_ns == 15 + 9 + 11 && use.longest_queue == 2);
}

void counts_what_is_timed_elsewhere() {
  MemoryBench bench(level("PER_NPU_MEMORY_EXPANSION"));
  bench.memory->count_timed({.is_store = true, .bytes = 100}, 3);
  bench.at(0, {.bytes = 50});
  bench.run();
  const astra::MemoryUse& use = bench.memory->use();
  CHECK(use.accesses == 4 && use.bytes_stored == 300 && use.bytes_loaded == 50);
  CHECK(use.busy_ns == 3 * 15 + 10 && use.longest_queue == 0);
}

// Ten times the bytes; odd ranks queue behind each other, even ones behind nobody.
MemoryLevel own_level(int* services_asked, int* servers_asked) {
  MemoryLevel own;
  own.type = "Tape";
  own.service_ns = [services_asked](const MemoryAccess& access) {
    ++*services_asked;
    return access.bytes * 10;
  };
  own.server = [servers_asked](const MemoryAccess& access) {
    ++*servers_asked;
    return access.rank % 2 == 1 ? std::optional<std::int64_t>(-7) : std::nullopt;
  };
  return own;
}

void asks_the_users_own_once_per_class() {
  int services_asked = 0;
  int servers_asked = 0;
  MemoryBench bench(own_level(&services_asked, &servers_asked));
  for (const astra::Rank rank : {0, 1, 2, 3}) {
    bench.at(0, {.rank = rank, .bytes = 3});
  }
  bench.at(0, {.rank = 3, .bytes = 4});
  CHECK(bench.run() == Times({30, 30, 30, 60, 100}));
  CHECK(services_asked == 2 && servers_asked == 4);
  CHECK(bench.memory->use().longest_queue == 3);
  CHECK(!bench.memory->is_contention_free());
}

void is_contention_free_without_queues() {
  int asked = 0;
  MemoryLevel own = own_level(&asked, &asked);
  own.server = nullptr;
  MemoryBench bench(own);
  CHECK(bench.memory->is_contention_free());
  bench.at(0, {.rank = 1, .bytes = 3});
  bench.at(0, {.rank = 1, .bytes = 3});
  CHECK(bench.run() == Times({30, 30}));
}

void refuses_impossible_answers() {
  MemoryLevel own;
  own.type = "Broken";
  own.service_ns = [](const MemoryAccess&) { return astra::Time{-1}; };
  const MemoryBench bench(own);
  CHECK_THROWS(bench.memory->service_time({.bytes = 1}), std::invalid_argument);
}

void refuses_wrong_levels() {
  CHECK(MemoryBench(MemoryLevel{}).memory == nullptr);
  CHECK_THROWS(MemoryBench(MemoryLevel{"POOL", 0, 0, 1}), std::invalid_argument);
  CHECK_THROWS(MemoryBench(MemoryLevel{"MEMORY_POOL", -1, 0, 1}), std::invalid_argument);
  CHECK_THROWS(MemoryBench(MemoryLevel{"PER_NODE_MEMORY_EXPANSION", 0, 0, 0}), std::invalid_argument);
  MemoryLevel with_channels = level("MEMORY_POOL");
  with_channels.channels = 2;
  CHECK_THROWS(MemoryBench(with_channels), std::invalid_argument);
}

void refuses_unknown_devices() {
  const MemoryBench bench(level("MEMORY_POOL"));
  bench.memory->check_access({.device = 9}, false);  // ASTRA-sim's types know no device
  CHECK_THROWS(bench.memory->check_access({.device = 2}, true), std::invalid_argument);
  CHECK_THROWS(bench.memory->check_access({.device = 1, .channel = 2}, true), std::invalid_argument);
}

}  // namespace

Tests memory_tests() {
  return {
      {"nobody queues per NPU, a node's ranks per node, all in a pool", queues_behind_whom_it_should},
      {"computing in memory queues per channel, beside loads", computes_in_channels},
      {"a memory without bandwidth costs its latency alone", costs_latency_alone_without_bandwidth},
      {"a memory counts accesses, bytes, busy time and the longest queue", counts_what_it_did},
      {"accesses that were timed elsewhere are counted", counts_what_is_timed_elsewhere},
      {"a memory of the user's own is asked once per class of accesses", asks_the_users_own_once_per_class},
      {"a memory of the user's own without queues is contention free", is_contention_free_without_queues},
      {"a negative time of the user's own is refused", refuses_impossible_answers},
      {"wrong memory levels are refused", refuses_wrong_levels},
      {"devices and channels that do not exist are refused", refuses_unknown_devices},
  };
}
