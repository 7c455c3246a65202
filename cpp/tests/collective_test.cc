#include "astra/collective/chunks.h"
#include "astra/collective/direct.h"
#include "astra/collective/double_binary_tree.h"
#include "astra/collective/halving_doubling.h"
#include "astra/collective/library.h"
#include "astra/collective/ring.h"
#include "astra/collective/stream_queue.h"
#include "astra/collective/symmetric.h"
#include "check.h"

namespace {

using astra::CollectiveType;

astra::NetworkConfig grid(std::vector<std::string> topology, std::vector<std::int64_t> counts, double bandwidth = 1) {
  const std::size_t dimensions = counts.size();
  return {.topology = std::move(topology),
          .npus_count = std::move(counts),
          .bandwidth = std::vector<double>(dimensions, bandwidth),
          .latency_ns = std::vector<double>(dimensions, 500)};
}

void splits_as_astra_sim_does() {
  const auto is = [](astra::Chunks chunks, astra::Bytes bytes, std::int64_t count) {
    return chunks.bytes == bytes && chunks.count == count && (count == 0 || chunks.are_equal());
  };
  constexpr auto kRules = astra::Rules::kAstraSim;
  CHECK(is(astra::split(CollectiveType::kAllReduce, 1000, 4, 8, kRules), 250, 4));
  CHECK(is(astra::split(CollectiveType::kAllReduce, 1000, 64, 8, kRules), 15, 67));
  CHECK(is(astra::split(CollectiveType::kAllReduce, 100, 64, 8, kRules), 8, 64));
  CHECK(is(astra::split(CollectiveType::kAllGather, 100, 64, 8, kRules), 1, 100));
  CHECK(is(astra::split(CollectiveType::kAllGather, 63, 64, 8, kRules), 0, 0));
}

void splits_into_what_there_is() {
  const astra::Chunks chunks = astra::split(CollectiveType::kAllReduce, 1001, 4, 8, astra::Rules::kRight);
  CHECK(chunks.bytes == 251 && chunks.count == 4 && chunks.last_bytes == 1001 - 3 * 251);
  const astra::Chunks few = astra::split(CollectiveType::kAllGather, 3, 64, 8, astra::Rules::kRight);
  CHECK(few.bytes == 1 && few.count == 3 && few.are_equal());
}

astra::Phase plan(const astra::BlockAlgorithm& algorithm, CollectiveType type, astra::Bytes bytes, std::int32_t members,
                  std::int32_t index) {
  astra::Phase phase{.type = type, .bytes = bytes, .members = members, .index = index};
  algorithm.plan(phase);
  return phase;
}

void sends_around_the_ring() {
  const astra::RingAlgorithm ring;
  const astra::Phase phase = plan(ring, CollectiveType::kAllReduce, 1000, 4, 3);
  CHECK(phase.to_send == 6 && phase.window == 1);
  CHECK(ring.block(phase, 0).to == 0 && ring.block(phase, 0).from == 2 && ring.block(phase, 0).bytes == 250);
  CHECK(ring.block(phase, 0).reduced == -1 && ring.block(phase, 3).reduced == 250);
  CHECK(ring.block(phase, 4).reduced == -1);
  CHECK(plan(ring, CollectiveType::kAllToAll, 1000, 4, 0).to_send == 6);
  CHECK(ring.block(plan(ring, CollectiveType::kAllGather, 1000, 4, 0), 0).bytes == 1000);
}

void sends_straight_to_everybody() {
  const astra::DirectAlgorithm direct(0, astra::Rules::kAstraSim);
  const astra::Phase phase = plan(direct, CollectiveType::kAllReduce, 1000, 4, 1);
  CHECK(phase.to_send == 6 && phase.window == 3 && phase.is_gated);
  const int to[] = {2, 3, 0, 2, 3, 0};
  const int from[] = {0, 3, 2, 0, 3, 2};
  for (int k = 0; k < 6; ++k) {
    CHECK(direct.block(phase, k).to == to[k] && direct.block(phase, k).from == from[k]);
    CHECK((direct.block(phase, k).reduced >= 0) == (k >= 3));
  }
}

// With a window of 1 ASTRA-sim reduces every other block received; a rank must add up all of its N - 1.
void reduces_every_block_received() {
  const auto reductions = [](astra::Rules rules) {
    const astra::DirectAlgorithm direct(1, rules);
    const astra::Phase phase = plan(direct, CollectiveType::kReduceScatter, 1000, 5, 0);
    int count = 0;
    for (int k = 0; k < 1 + 4; ++k) count += direct.block(phase, k).reduced >= 0 ? 1 : 0;
    return count;
  };
  CHECK(reductions(astra::Rules::kRight) == 4);
  CHECK(reductions(astra::Rules::kAstraSim) == 2);
}

void halves_then_doubles() {
  const astra::HalvingDoublingAlgorithm algorithm(astra::Rules::kRight);
  const astra::Phase phase = plan(algorithm, CollectiveType::kAllReduce, 800, 8, 5);
  CHECK(phase.to_send == 6);
  const int to[] = {4, 7, 1, 1, 7, 4};
  const int bytes[] = {400, 200, 100, 100, 200, 400};
  const int reduced[] = {-1, 400, 200, 100, -1, -1};
  for (int k = 0; k < 6; ++k) {
    const astra::Block block = algorithm.block(phase, k);
    CHECK(block.to == to[k] && block.from == to[k] && block.bytes == bytes[k] && block.reduced == reduced[k]);
  }
  CHECK_THROWS(algorithm.check_members(CollectiveType::kAllReduce, 6, "halvingDoubling"), std::invalid_argument);
}

// In order, the places of a tree of eight are 0 1 2 3 4 5 6 under the root 7: 3 above 1 and 5, those above the leaves.
void climbs_the_tree_in_order() {
  const astra::DoubleBinaryTreeAlgorithm tree(astra::Rules::kRight);
  const auto peers = [&tree](std::int32_t index, std::int32_t variant) {
    std::vector<std::int32_t> result;
    for (const astra::Step& step : tree.program({.bytes = 8, .members = 8, .index = index, .variant = variant})) {
      if (step.kind == astra::StepKind::kSend) result.push_back(step.peer);
    }
    return result;
  };
  CHECK((peers(7, 0) == std::vector<std::int32_t>{3}));
  CHECK((peers(3, 0) == std::vector<std::int32_t>{7, 1, 5}));
  CHECK((peers(5, 0) == std::vector<std::int32_t>{3, 4, 6}));
  CHECK((peers(6, 0) == std::vector<std::int32_t>{5}));
  CHECK((peers(0, 1) == std::vector<std::int32_t>{4}));  // the other tree is the same, one place on
  CHECK((peers(4, 1) == std::vector<std::int32_t>{0, 2, 6}));
}

void times_the_worked_examples() {
  astra::EventQueue events;
  const auto network = astra::make_network(grid({"Ring"}, {4}, 50.0 * 1.073741824), events);
  const auto time = [&](std::int64_t splits) {
    astra::SystemConfig config;
    config.local_mem_bandwidth = 1600e9;
    config.preferred_dataset_splits = splits;
    const astra::CollectiveLibrary library(config, *network);
    const astra::Communicator all = library.communicator({}, 0);
    return astra::SymmetricTimer(library).time({.communicator = &all, .size = 65536});
  };
  CHECK(time(1) == 4990);
  CHECK(time(4) == 14176);
}

void knows_when_ranks_are_alike() {
  astra::EventQueue events;
  const auto network = astra::make_network(grid({"Ring"}, {8}), events);
  const auto is_symmetric = [&](const std::vector<astra::Rank>& ranks, const char* algorithm) {
    astra::SystemConfig config;
    config.all_reduce = {algorithm};
    const astra::CollectiveLibrary library(config, *network);
    const astra::Communicator communicator = library.communicator(ranks, ranks.empty() ? 0 : 1);
    return astra::SymmetricTimer(library).is_symmetric({.communicator = &communicator});
  };
  CHECK(is_symmetric({}, "ring") && is_symmetric({}, "direct") && is_symmetric({}, "halvingDoubling"));
  CHECK(!is_symmetric({}, "doubleBinaryTree"));
  CHECK(is_symmetric({2, 5}, "ring"));
  CHECK(is_symmetric({0, 2, 4, 6}, "direct"));
  CHECK(!is_symmetric({0, 1, 2, 3}, "ring"));
}

void finds_boxes_of_the_grid() {
  astra::EventQueue events;
  const auto network = astra::make_network(grid({"Ring", "Switch"}, {4, 3}), events);
  const astra::CollectiveLibrary library({}, *network);
  const auto members = [&](const std::vector<astra::Rank>& ranks) {
    std::vector<std::int32_t> result;
    const astra::Communicator communicator = library.communicator(ranks, 1);
    for (const astra::Communicator::Axis& axis : communicator.axes) result.push_back(axis.members);
    return result;
  };
  CHECK((members({1, 2, 5, 6}) == std::vector<std::int32_t>{2, 2}));
  CHECK((members({3, 7, 11}) == std::vector<std::int32_t>{1, 3}));
  CHECK(members({1, 2, 5, 7}).empty());
  CHECK(members({2, 1, 6, 5}).empty());  // the order listed is the order of its ring
}

void interpolates_measured_times() {
  astra::EventQueue events;
  const auto network = astra::make_network(grid({"Ring"}, {4}), events);
  astra::SystemConfig config;
  config.measured = {{CollectiveType::kAllReduce, 4, {1000, 2000, 4000}, {50, 60, 100}}};
  const astra::CollectiveLibrary library(config, *network);
  const astra::Communicator all = library.communicator({}, 0);
  const auto time = [&](astra::Bytes size) { return *library.measured({.communicator = &all, .size = size}); };
  CHECK(time(1) == 50 && time(1000) == 50 && time(1500) == 55 && time(3000) == 80 && time(8000) == 180);
  CHECK(!library.measured({.communicator = &all, .type = CollectiveType::kAllGather, .size = 1}).has_value());
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
  const auto network = astra::make_network(grid({"Ring"}, {4}), events);
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
  refused([](astra::SystemConfig& c) { c.all_reduce = {"direct0"}; });
  refused([](astra::SystemConfig& c) { c.num_queues_per_dim = 0; });
  refused([](astra::SystemConfig& c) { c.roofline_enabled = true; });
  refused([](astra::SystemConfig& c) { c.measured = {{CollectiveType::kAllReduce, 4, {2, 1}, {1, 1}}}; });
  refused([](astra::SystemConfig& c) { c.programs = {{{astra::Step{.after = {1}}, astra::Step{.after = {0}}}}}; });
  const astra::CollectiveLibrary library({}, *network);
  CHECK_THROWS(library.communicator({0, 4}, 1), std::invalid_argument);
  CHECK_THROWS(library.communicator({1, 1}, 1), std::invalid_argument);
}

}  // namespace

Tests collective_tests() {
  return {
      {"sizes become chunks as in ASTRA-sim", splits_as_astra_sim_does},
      {"outside parity the last chunk is what is left", splits_into_what_there_is},
      {"the ring algorithm sends to the successor and reduces the first N - 1 blocks", sends_around_the_ring},
      {"the direct algorithm sends to every other place and reduces on the way", sends_straight_to_everybody},
      {"outside parity a window changes no reduction", reduces_every_block_received},
      {"halving and doubling exchange with partners 1, 2, 4, 4, 2, 1 away", halves_then_doubles},
      {"the two trees are walks in order", climbs_the_tree_in_order},
      {"the closed form gives ASTRA-sim's times", times_the_worked_examples},
      {"a communicator is symmetric when all partners are equally far", knows_when_ranks_are_alike},
      {"ranks that fill a box of the grid are decomposed along its axes", finds_boxes_of_the_grid},
      {"measured times are joined by straight lines", interpolates_measured_times},
      {"streams start by priority, then in order of entry", queues_by_priority_then_entry},
      {"wrong systems and groups are refused", refuses_wrong_configurations},
  };
}
