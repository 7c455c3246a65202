#include <algorithm>
#include <numeric>
#include <random>
#include <stdexcept>

#include "check.h"
#include "memory_bench.h"

namespace {

using astra::MemoryAccess;
using astra::MemoryLevel;

constexpr double kWide = 1000;

// Rank 0 is behind link 0, rank 1 behind link 1; all devices, of 10 bytes per nanosecond, behind link 2.
MemoryLevel pool(double port_0, double port_1, double uplink, std::int64_t devices = 2) {
  MemoryLevel level{"MEMORY_DEVICES", 0, 10.0};
  level.discipline = "flow";
  level.num_devices = devices;
  level.links = {{port_0, 0}, {port_1, 0}, {uplink, 0}};
  level.rank_links = {{0}, {1}};
  level.device_links.assign(static_cast<std::size_t>(devices), {2});
  return level;
}

MemoryAccess load(std::int32_t device, astra::Bytes bytes, astra::Rank rank = 0) {
  return {.rank = rank, .device = device, .bytes = bytes};
}

MemoryAccess store(std::int32_t device, astra::Bytes bytes, astra::Rank rank = 0) {
  return {.rank = rank, .device = device, .is_store = true, .bytes = bytes};
}

Times times(const MemoryLevel& level, const std::vector<MemoryAccess>& at_once) {
  MemoryBench bench(level);
  for (const MemoryAccess& access : at_once) bench.at(0, access);
  return bench.run();
}

// 1009 bytes at the device's 10 bytes/ns: 100.9 ns behind 3 + 4 + 5 ns. Behind a port of 8: 126.1 ns.
void takes_its_latencies_and_its_narrowest_link() {
  MemoryLevel level = pool(8, kWide, 15);
  level.links[0].latency_ns = level.links[1].latency_ns = 3;
  level.links[2].latency_ns = 4;
  level.latency_ns = 5;
  CHECK((times(level, {load(0, 1009, 1)}) == Times{112}));
  CHECK((times(level, {load(0, 1009, 0)}) == Times{138}));
  CHECK((times(level, {load(1, 0)}) == Times{12}));
  const MemoryBench bench(level);
  CHECK(bench.memory->service_time(load(0, 1009)) == 138);
  CHECK(bench.memory->service_time(load(-1, 3000, 1)) == 12 + 200);
}

void shares_a_device_equally() {
  CHECK((times(pool(8, 8, kWide), {load(0, 1000, 0), load(0, 1000, 1)}) == Times{200, 200}));
}

// Rank 0 has the 2 of its port, rank 1 the other 8: 4000 bytes in 500 ns. Then it is alone: 4000 more in 400 ns.
void gives_what_a_narrow_port_leaves() {
  CHECK((times(pool(2, 20, kWide), {load(0, 1000, 0), load(0, 8000, 1)}) == Times{500, 900}));
}

void shares_an_uplink() {
  CHECK((times(pool(kWide, kWide, 12), {load(0, 1200, 0), load(1, 1200, 1)}) == Times{200, 200}));
}

// A stripe over both devices at r takes r / 2 of device 0, on which the other has r: 3 r / 2 = 10. When the other has
// its 1000 bytes, at 150, the stripe has 1000 left and both devices for itself: 20 bytes/ns.
void shares_one_device_of_a_stripe() {
  CHECK((times(pool(kWide, kWide, kWide), {load(-1, 2000, 0), load(0, 1000, 1)}) == Times{200, 150}));
}

// Behind a port of 6 a stripe takes 3 of each device. Of device 0 somebody else has the other 7, and another stripe 14
// of both together.
void leaves_what_a_stripe_does_not_take() {
  CHECK((times(pool(6, kWide, kWide), {load(-1, 1200, 0), load(0, 1400, 1)}) == Times{200, 200}));
  CHECK((times(pool(6, kWide, kWide), {load(-1, 1200, 0), load(-1, 2800, 1)}) == Times{200, 200}));
}

// Over the uplink both have one share, whatever each is striped over.
void counts_a_stripe_once_on_a_link() {
  CHECK((times(pool(kWide, kWide, 8, 4), {load(-1, 4000, 0), load(0, 4000, 1)}) == Times{1000, 1000}));
}

void interleaves_over_a_set() {
  MemoryLevel level = pool(kWide, kWide, kWide, 4);
  level.interleaves = {{0, 2, 3}, {1, 3}};
  CHECK((times(level, {load(-2, 3000)}) == Times{100}));
  CHECK((times(level, {load(-3, 3000)}) == Times{150}));
  // Device 3 has a third of one and half of the other: 5 r / 6 = 10.
  CHECK((times(level, {load(-2, 1200, 0), load(-3, 1200, 1)}) == Times{100, 100}));
}

// Storing takes twice as much of a device: alone 5 bytes/ns; beside a load r + 2 r = 10.
void stores_at_the_write_bandwidth() {
  MemoryLevel level = pool(kWide, kWide, kWide);
  level.write_bandwidth = 5;
  CHECK((times(level, {store(0, 1000)}) == Times{200}));
  CHECK((times(level, {load(0, 1000), store(0, 1000)}) == Times{300, 300}));
}

void has_two_directions_on_a_link() {
  MemoryBench bench(pool(5, kWide, 5));
  bench.at(0, load(0, 1000));
  bench.at(0, store(1, 1500));
  CHECK((bench.run() == Times{200, 300}));
  const std::vector<astra::LinkUse> use = bench.memory->link_use();
  const std::vector<astra::Bytes> bytes = {1000, 1500, 0, 0, 1000, 1500, 1000, 1500};
  const Times busy = {200, 300, 0, 0, 200, 300, 200, 300};
  for (std::size_t i = 0; i < use.size(); ++i) {
    CHECK(use[i].bytes == bytes[i] && use[i].busy_ns == busy[i]);
  }
  CHECK(use.size() == 8 && bench.memory->use().busy_ns == 500 && bench.memory->use().longest_queue == 1);
}

// Sizes, instants and bandwidths are round, so that many ends are whole but for rounding.
void keeps_bytes_whatever_the_order() {
  std::mt19937 random(11);
  for (int trial = 0; trial < 200; ++trial) {
    MemoryLevel level = pool(6, 7, 11, 5);
    level.write_bandwidth = 7;
    level.interleaves = {{0, 1, 2}, {2, 4}};
    std::vector<std::pair<astra::Time, MemoryAccess>> accesses;
    for (int i = 0; i < 30; ++i) {
      const auto device = static_cast<std::int32_t>(random() % 8) - 3;
      const auto rank = static_cast<astra::Rank>(random() % 2);
      const auto bytes = static_cast<astra::Bytes>(2310 * (1 + random() % 4));
      const MemoryAccess access = random() % 3 == 0 ? store(device, bytes, rank) : load(device, bytes, rank);
      accesses.emplace_back(static_cast<astra::Time>(random() % 4 * 210), access);
    }
    MemoryBench forwards(level);
    MemoryBench backwards(level);
    for (std::size_t i = 0; i < accesses.size(); ++i) {
      const auto& last = accesses[accesses.size() - 1 - i];
      forwards.at(accesses[i].first, accesses[i].second);
      backwards.at(last.first, last.second);
    }
    Times reversed = backwards.run();
    std::reverse(reversed.begin(), reversed.end());
    CHECK(forwards.run() == reversed);
    const auto total = [&](std::size_t first, std::size_t step, std::size_t count) {
      const std::vector<astra::LinkUse> use = forwards.memory->link_use();
      astra::Bytes sum = 0;
      for (std::size_t i = 0; i < count; ++i) sum += use[first + step * i].bytes;
      return sum;
    };
    const astra::Bytes moved = forwards.memory->use().bytes_loaded + forwards.memory->use().bytes_stored;
    CHECK(total(0, 2, 2) == forwards.memory->use().bytes_loaded && total(0, 1, 4) == moved);
    CHECK(total(4, 1, 2) == moved && std::abs(total(6, 1, 5) - moved) <= 30 * 5);
  }
}

void computes_beside_its_flows() {
  MemoryLevel level = pool(kWide, kWide, kWide);
  level.pim_channels = 3;
  MemoryBench bench(level);
  bench.compute_at(0, {.device = 0, .channel = 2}, 7);
  bench.compute_at(0, {.device = 1, .channel = 0}, 7);
  bench.compute_at(0, {.device = 1, .channel = 0}, 7);  // after the one before
  bench.at(0, load(1, 100));                            // as if nobody computed
  CHECK(bench.run() == Times({7, 7, 14, 10}));
}

void refuses_what_is_not_there() {
  MemoryLevel level = pool(1, 1, 1);
  level.interleaves = {{0, 1}};
  level.capacity_bytes = 100;
  const MemoryBench bench(level);
  bench.memory->check_access(load(-2, 1), false);
  CHECK_THROWS(bench.memory->check_access(load(-3, 1), false), std::invalid_argument);
  CHECK_THROWS(bench.memory->check_access(load(2, 1), false), std::invalid_argument);
  CHECK_THROWS(bench.memory->check_access(load(0, 1), true), std::invalid_argument);
  CHECK_THROWS(bench.memory->service_time(load(-1, 201)), std::invalid_argument);
}

void computes_on_channels_that_are_there() {
  MemoryLevel level = pool(1, 1, 1);
  level.pim_channels = 2;
  const MemoryBench bench(level);
  MemoryAccess access = load(1, 1);
  access.channel = 1;
  bench.memory->check_access(access, true);
  access.channel = 2;
  CHECK_THROWS(bench.memory->check_access(access, true), std::invalid_argument);
  access = load(-1, 1);
  CHECK_THROWS(bench.memory->check_access(access, true), std::invalid_argument);
}

void refuses_levels_without_meaning() {
  const auto refuses = [](void (*change)(MemoryLevel&)) {
    MemoryLevel level = pool(1, 1, 1);
    change(level);
    CHECK_THROWS(MemoryBench(level), std::invalid_argument);
  };
  refuses([](MemoryLevel& level) { level.discipline = "shared"; });
  refuses([](MemoryLevel& level) { level.rank_links = {{0}}; });
  refuses([](MemoryLevel& level) { level.rank_links = {{0}, {3}}; });
  refuses([](MemoryLevel& level) { level.rank_links = {{0}, {1, 1}}; });
  refuses([](MemoryLevel& level) { level.device_links = {{0}}; });
  refuses([](MemoryLevel& level) { level.links[1].bandwidth = 0; });
  refuses([](MemoryLevel& level) { level.links[1].latency_ns = -1; });
  refuses([](MemoryLevel& level) { level.interleaves = {{}}; });
  refuses([](MemoryLevel& level) { level.interleaves = {{0, 2}}; });
  refuses([](MemoryLevel& level) { level.interleaves = {{1, 1}}; });
  refuses([](MemoryLevel& level) { level.channels = 2; });
  refuses([](MemoryLevel& level) { level.endpoints = {2, 3}; });
}

}  // namespace

Tests flow_memory_tests() {
  return {
      {"an access alone takes its latencies and its bytes at its narrowest link",
       takes_its_latencies_and_its_narrowest_link},
      {"accesses behind equal ports share a device equally", shares_a_device_equally},
      {"who is not limited by a port has what the other leaves", gives_what_a_narrow_port_leaves},
      {"accesses of two devices share the uplink before them", shares_an_uplink},
      {"a stripe shares the device that somebody else uses too", shares_one_device_of_a_stripe},
      {"others have what a stripe behind a narrow port does not take", leaves_what_a_stripe_does_not_take},
      {"a stripe has one share of a link", counts_a_stripe_once_on_a_link},
      {"an access is interleaved over a set of devices", interleaves_over_a_set},
      {"a store takes as much more of a device as it is slower", stores_at_the_write_bandwidth},
      {"loads and stores do not share a link", has_two_directions_on_a_link},
      {"bytes are conserved and the order of asking changes nothing", keeps_bytes_whatever_the_order},
      {"channels compute one thing at a time, and hinder no access", computes_beside_its_flows},
      {"accesses of what is not there are refused", refuses_what_is_not_there},
      {"its devices compute on channels that are there", computes_on_channels_that_are_there},
      {"levels of links that mean nothing are refused", refuses_levels_without_meaning},
  };
}
