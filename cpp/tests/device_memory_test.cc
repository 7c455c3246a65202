#include <algorithm>
#include <stdexcept>

#include "check.h"
#include "memory_bench.h"

namespace {

using astra::MemoryAccess;
using astra::MemoryLevel;

// One device: 5 ns and 10 bytes per nanosecond.
MemoryLevel devices(std::int64_t count = 1, const char* discipline = "fifo") {
  MemoryLevel level{"MEMORY_DEVICES", 5, 10.0};
  level.num_devices = count;
  level.discipline = discipline;
  return level;
}

MemoryAccess load(std::int32_t device, astra::Bytes bytes, astra::Rank rank = 0) {
  return {.rank = rank, .device = device, .bytes = bytes};
}

MemoryAccess store(std::int32_t device, astra::Bytes bytes) {
  return {.device = device, .is_store = true, .bytes = bytes};
}

void queues_per_device() {
  MemoryBench bench(devices(2));
  bench.at(0, load(0, 100));
  bench.at(0, load(1, 100));
  bench.at(0, load(0, 100, 1));
  CHECK(bench.run() == Times({15, 15, 30}));
}

// Two channels of 5 bytes per nanosecond: 100 bytes take 25 ns, 20 bytes 9 ns. The third finds channel 1 free first, at
// 9; the fourth channel 0, at 25; the fifth comes when both are free and takes channel 0.
void takes_the_channel_that_is_free_first() {
  MemoryLevel level = devices();
  level.channels = 2;
  MemoryBench bench(level);
  bench.at(0, load(0, 100));
  bench.at(0, load(0, 20));
  bench.at(0, load(0, 100));
  bench.at(1, load(0, 20));
  bench.at(100, load(0, 20));
  CHECK(bench.run() == Times({25, 9, 34, 34, 109}));
  CHECK(bench.memory->use().longest_queue == 2);
}

void writes_at_their_own_bandwidth() {
  MemoryLevel level = devices();
  level.write_bandwidth = 4;
  MemoryBench bench(level);
  bench.at(0, load(0, 100));
  bench.at(0, store(0, 100));
  CHECK(bench.run() == Times({15, 15 + 30}));
  CHECK(bench.memory->use().bytes_loaded == 100 && bench.memory->use().bytes_stored == 100);
}

// Device 0: 5 + 100 / 10, as the level would say; device 1: 7 + 100 / 4, and 7 + 100 / 2 for a store behind it.
void devices_may_differ() {
  MemoryLevel level = devices(2);
  level.rates = {{5, 10, 0}, {7, 4, 2}};
  MemoryBench bench(level);
  bench.at(0, load(0, 100));
  bench.at(0, load(1, 100));
  bench.at(0, store(1, 100));
  CHECK(bench.run() == Times({15, 32, 32 + 57}));
}

// Until 5 nobody is served. From 5 on each has half: the short one has its 10 ns at 25, the long one 10 of its 20; from
// 25 on it is alone.
void shares_equally() {
  MemoryBench bench(devices(1, "shared"));
  bench.at(0, load(0, 100));
  bench.at(0, load(0, 200));
  CHECK(bench.run() == Times({25, 35}));
  CHECK(bench.memory->use().busy_ns == 35 && bench.memory->use().longest_queue == 2);
}

// a has 10 ns to go at 5. b comes at 9, when 6 are left: both halve. a ends at 9 + 12 = 21 and b, with 6 of its 10, at
// 25; c joins then with 4, b having 4 left: hence c at 15, when a has 3 left and b 7. With three, a ends at 24 (3
// each). b has 4 and c 1 left: c ends at 26, b 3 later.
void shares_with_late_comers() {
  MemoryBench bench(devices(1, "shared"));
  bench.at(0, load(0, 100));
  bench.at(4, load(0, 100));
  bench.at(10, load(0, 40));
  CHECK(bench.run() == Times({24, 29, 26}));
}

// 104 and 206 bytes at once: 10.4 and 20.6 ns. Exact ends at 20.8 and 31, after the latency; truncating the first must
// not let the second end early.
void truncates_without_losing_service() {
  MemoryBench bench(devices(1, "shared"));
  bench.at(0, load(0, 104));
  bench.at(0, load(0, 206));
  CHECK(bench.run() == Times({25, 36}));
}

// Sevenths are no binary fractions: 700 ns of service for each of 7 that come one nanosecond after the other end
// together where no rounding may show. Only the first is served alone, for 1 ns.
void keeps_whole_ends_whole() {
  MemoryLevel level = devices(1, "shared");
  level.latency_ns = 0;
  level.bandwidth = 1.0 / 3.0;
  MemoryBench bench(level);
  for (int i = 0; i < 7; ++i) {
    bench.at(0, load(0, 100 + i));
  }
  // The shortest ends after 7 * 300, each next one with one sharer less: + 6 * 3, + 5 * 3, ...
  CHECK(bench.run() == Times({2100, 2118, 2133, 2145, 2154, 2160, 2163}));
}

// 107 bytes alone take 5 + floor(10.7) = 15, however often they are repeated one by one.
void is_its_service_time_alone() {
  for (const char* discipline : {"fifo", "shared"}) {
    MemoryLevel level = devices(1, discipline);
    level.latency_ns = 0;
    MemoryBench bench(level);
    for (astra::Time i = 0; i < 5; ++i) {
      bench.at(10 * i, load(0, 107));
    }
    CHECK(bench.run() == Times({10, 20, 30, 40, 50}));
    CHECK(bench.memory->service_time(load(0, 107)) == 10);
  }
}

// A device that three accesses share for a minute keeps its exact ends. Each needs 1 ms alone and gets a third, which
// no double holds, so it ends 3 ms after it came, in the instant in which the next one comes; the first two need less.
void stays_exact_for_long() {
  constexpr astra::Time kMs = 1'000'000;
  constexpr std::size_t kMany = 60'000;
  MemoryLevel level = devices(1, "shared");
  level.latency_ns = 0;
  level.bandwidth = 3;
  MemoryBench bench(level);
  for (std::size_t i = 0; i < kMany; ++i) {
    const auto number = static_cast<astra::Time>(i);
    bench.at(std::max<astra::Time>(number - 2, 0) * kMs, load(0, std::min<astra::Bytes>(number + 1, 3) * kMs));
  }
  const Times ends = bench.run();
  for (std::size_t i = 0; i + 2 < kMany; ++i) {
    CHECK(ends[i] == static_cast<astra::Time>(i + 1) * kMs);
  }
}

// 103 bytes over 4 devices: 26, 26, 26 and 25; the last device is busy with 100 bytes until 15.
void stripes_over_all_devices() {
  MemoryBench bench(devices(4));
  bench.at(0, load(3, 100));
  bench.at(0, load(-1, 103));
  bench.at(100, load(-1, 103));
  bench.at(200, load(-1, 1));
  bench.at(300, load(-1, 0));
  CHECK(bench.run() == Times({15, 15 + 7, 107, 205, 305}));
  CHECK(bench.memory->service_time(load(-1, 103)) == 7);
  CHECK(bench.memory->use().accesses == 5 && bench.memory->use().bytes_loaded == 307);
}

// The device takes 5 + 10; the link 1 ns per byte. Loads come from the endpoint, stores go there.
void shares_links_with_everybody() {
  MemoryLevel level = devices(2);
  level.endpoints = {2, 3};
  MemoryBench bench(level);
  bench.at(0, load(0, 100));
  bench.at(0, store(1, 100));
  CHECK(bench.run() == Times({100, 200}));
  CHECK(bench.network.sent == std::vector<OneLink::Message>({{2, 0, 100}, {0, 3, 100}}));
  CHECK(bench.memory->service_time(load(0, 100)) == 100);
}

// A device slower than the link ends last: 5 + 100 / 0.5, while the link is free at 100 for a message of others.
void ends_with_the_slower_of_device_and_link() {
  MemoryLevel level = devices();
  level.endpoints = {2};
  level.bandwidth = 0.5;
  MemoryBench bench(level);
  bench.at(0, load(0, 100));
  CHECK(bench.run() == Times({205}));
  CHECK(bench.memory->service_time(load(0, 100)) == 205);
}

void sends_nothing_where_nothing_moves() {
  MemoryLevel level = devices();
  level.endpoints = {1};
  MemoryBench bench(level);
  bench.at(0, load(0, 100, 1));  // rank 1's own
  bench.at(50, load(0, 0));
  CHECK(bench.run() == Times({15, 55}));
  CHECK(bench.network.sent.empty());
}

void computes_per_device_and_channel() {
  MemoryLevel level = devices(2);
  level.pim_channels = 3;
  MemoryBench bench(level);
  bench.compute_at(0, {.device = 0, .channel = 2, .bytes = 100}, 7);
  bench.compute_at(0, {.device = 1, .channel = 0, .bytes = 100}, 7);
  bench.compute_at(0, {.device = 1, .channel = 0, .bytes = 100}, 7);
  CHECK(bench.run() == Times({22, 22, 44}));
}

void refuses_what_does_not_fit() {
  MemoryLevel level = devices(2);
  level.capacity_bytes = 100;
  const MemoryBench bench(level);
  CHECK(bench.memory->use().capacity_bytes == 200);
  CHECK(bench.memory->service_time(load(-1, 200)) == 15);
  CHECK_THROWS(bench.memory->service_time(load(0, 101)), std::invalid_argument);
  CHECK_THROWS(bench.memory->service_time(load(-1, 201)), std::invalid_argument);
  bench.memory->check_access(load(-1, 1), false);
  CHECK_THROWS(bench.memory->check_access(load(2, 1), false), std::invalid_argument);
  CHECK_THROWS(bench.memory->check_access(load(-1, 1), true), std::invalid_argument);
}

void refuses_levels_without_meaning() {
  const auto refuses = [](void (*change)(MemoryLevel&)) {
    MemoryLevel level = devices(2);
    change(level);
    CHECK_THROWS(MemoryBench(level), std::invalid_argument);
  };
  refuses([](MemoryLevel& level) { level.discipline = "lifo"; });
  refuses([](MemoryLevel& level) { level.channels = 0; });
  refuses([](MemoryLevel& level) { level.write_bandwidth = -1; });
  refuses([](MemoryLevel& level) { level.capacity_bytes = -1; });
  refuses([](MemoryLevel& level) { level.rates = {{0, 1, 0}}; });
  refuses([](MemoryLevel& level) { level.rates = {{-1, 1, 0}}; });
  refuses([](MemoryLevel& level) { level.endpoints = {2}; });
  refuses([](MemoryLevel& level) { level.endpoints = {3, 4}; });
  refuses([](MemoryLevel& level) { level.queues_per_device = true; });
  refuses([](MemoryLevel& level) { level.npus_per_node = 2; });
  refuses([](MemoryLevel& level) {
    level.discipline = "shared";
    level.channels = 2;
  });
}

}  // namespace

Tests device_memory_tests() {
  return {
      {"accesses queue per device", queues_per_device},
      {"an access takes the channel that is free first, the lowest on ties", takes_the_channel_that_is_free_first},
      {"stores have a bandwidth of their own", writes_at_their_own_bandwidth},
      {"devices may differ in speed", devices_may_differ},
      {"accesses of a shared device have equal shares", shares_equally},
      {"late comers slow those that are there", shares_with_late_comers},
      {"truncated ends lose no service", truncates_without_losing_service},
      {"ends at whole nanoseconds stay whole", keeps_whole_ends_whole},
      {"an access alone takes its service time", is_its_service_time_alone},
      {"sharing stays exact over a long busy time", stays_exact_for_long},
      {"an access of device -1 is striped and ends with the last stripe", stripes_over_all_devices},
      {"accesses of devices in the network share its links", shares_links_with_everybody},
      {"an access ends when device and transfer have ended", ends_with_the_slower_of_device_and_link},
      {"nothing is sent to oneself, nor without a byte", sends_nothing_where_nothing_moves},
      {"computing in memory queues per device and channel", computes_per_device_and_channel},
      {"accesses beyond the capacity or the devices are refused", refuses_what_does_not_fit},
      {"levels that mean nothing are refused", refuses_levels_without_meaning},
  };
}
