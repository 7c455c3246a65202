#include "astra/collective/chunks.h"
#include "astra/collective/library.h"
#include "astra/collective/ring.h"
#include "astra/collective/stream_queue.h"
#include "check.h"

namespace {

using astra::CollectiveType;

void splits_as_astra_sim_does() {
  const auto is = [](astra::Chunks chunks, astra::Bytes bytes, std::int64_t count) {
    return chunks.bytes == bytes && chunks.count == count;
  };
  CHECK(is(astra::split(CollectiveType::kAllReduce, 1000, 4, 8), 250, 4));
  CHECK(is(astra::split(CollectiveType::kAllReduce, 1000, 64, 8), 15, 67));
  CHECK(is(astra::split(CollectiveType::kAllReduce, 100, 64, 8), 8, 64));
  CHECK(is(astra::split(CollectiveType::kAllGather, 100, 64, 8), 1, 100));
  CHECK(is(astra::split(CollectiveType::kAllGather, 63, 64, 8), 0, 0));
}

void sends_around_the_ring() {
  const astra::RingAlgorithm ring;
  const astra::Phase phase = ring.phase(CollectiveType::kAllReduce, 1000, 4, 3);
  CHECK(phase.to_send == 6 && phase.window == 1);
  CHECK(ring.block(phase, 0).to == 0 && ring.block(phase, 0).from == 2 && ring.block(phase, 0).bytes == 250);
  CHECK(!ring.block(phase, 0).is_reducing && ring.block(phase, 3).is_reducing && !ring.block(phase, 4).is_reducing);
  CHECK(ring.phase(CollectiveType::kAllToAll, 1000, 4, 0).to_send == 6);
  CHECK(ring.block(ring.phase(CollectiveType::kAllGather, 1000, 4, 0), 0).bytes == 1000);
}

void times_the_worked_examples() {
  astra::EventQueue events;
  const auto network = astra::make_network({{"Ring"}, {4}, {50.0 * 1.073741824}, {500}}, events);
  astra::SystemConfig config;
  config.local_mem_bandwidth = 1600e9;
  astra::CollectiveLibrary one(config, *network);
  CHECK(one.symmetric_time(one.communicator({}, 0), CollectiveType::kAllReduce, 65536) == 4990);
  config.preferred_dataset_splits = 4;
  astra::CollectiveLibrary four(config, *network);
  CHECK(four.symmetric_time(four.communicator({}, 0), CollectiveType::kAllReduce, 65536) == 14176);
}

void knows_when_ranks_are_alike() {
  astra::EventQueue events;
  const auto ring = astra::make_network({{"Ring"}, {8}, {1}, {500}}, events);
  const astra::CollectiveLibrary library({}, *ring);
  CHECK(library.is_symmetric(library.communicator({}, 0)));
  CHECK(library.is_symmetric(library.communicator({2, 5}, 1)));
  CHECK(library.is_symmetric(library.communicator({0, 2, 4, 6}, 1)));
  CHECK(!library.is_symmetric(library.communicator({0, 1, 2, 3}, 1)));
}

void queues_by_priority_then_entry() {
  astra::StreamQueue queue;
  queue.enter(0, 1);
  queue.enter(1, 1);
  queue.enter(2, 5);
  std::uint32_t stream = 99;
  CHECK(queue.start(2, &stream) && stream == 2);
  CHECK(queue.start(2, &stream) && stream == 0);
  CHECK(!queue.start(2, &stream));
  queue.leave();
  CHECK(queue.start(2, &stream) && stream == 1);
}

void refuses_wrong_configurations() {
  astra::EventQueue events;
  const auto network = astra::make_network({{"Ring"}, {4}, {1}, {500}}, events);
  const auto refused = [&](auto change) {
    astra::SystemConfig config;
    change(config);
    CHECK_THROWS(astra::CollectiveLibrary(config, *network), std::invalid_argument);
  };
  refused([](astra::SystemConfig& c) { c.preferred_dataset_splits = 0; });
  refused([](astra::SystemConfig& c) { c.active_chunks_per_dimension = 0; });
  refused([](astra::SystemConfig& c) { c.scheduling_policy = "lifo"; });
  refused([](astra::SystemConfig& c) { c.endpoint_delay_ns = -1; });
  refused([](astra::SystemConfig& c) { c.all_reduce = {"tree"}; });
  refused([](astra::SystemConfig& c) { c.all_reduce = {"ring", "ring"}; });
  const astra::CollectiveLibrary library({}, *network);
  CHECK_THROWS(library.communicator({0, 4}, 1), std::invalid_argument);
  CHECK_THROWS(library.communicator({1, 1}, 1), std::invalid_argument);
}

}  // namespace

Tests collective_tests() {
  return {
      {"sizes become chunks as in ASTRA-sim", splits_as_astra_sim_does},
      {"the ring algorithm sends to the successor and reduces the first N - 1 blocks", sends_around_the_ring},
      {"the closed form gives ASTRA-sim's times", times_the_worked_examples},
      {"a communicator is symmetric when all its neighbours are equally far", knows_when_ranks_are_alike},
      {"streams start by priority, then in order of entry", queues_by_priority_then_entry},
      {"wrong systems and groups are refused", refuses_wrong_configurations},
  };
}
