#include "astra/collective/library.h"

#include <numeric>
#include <string>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"
#include "astra/collective/reduction.h"

namespace astra {
namespace {

constexpr Time kGroupDelayNs = 10;  // ASTRA-sim's, for groups smaller than the system

std::unique_ptr<CollectiveAlgorithm> single(const char* field, const std::vector<std::string>& names) {
  if (names.empty()) {
    return nullptr;
  }
  if (names.size() != 1) {
    refuse(std::string("system: ") + field + " must name one algorithm per network dimension: 1, not " +
           std::to_string(names.size()));
  }
  return make_algorithm(names[0]);
}

}  // namespace

CollectiveLibrary::CollectiveLibrary(const SystemConfig& config, const Network& network)
    : config_(config), network_(network) {
  check_config(config_);
  if (config_.scheduling_policy != "EXPLICIT") {
    priority_step_ = config_.scheduling_policy == "LIFO" ? 1 : -1;
  }
  all_reduce_ = single("all_reduce", config_.all_reduce);
  all_gather_ = single("all_gather", config_.all_gather);
  reduce_scatter_ = single("reduce_scatter", config_.reduce_scatter);
  all_to_all_ = single("all_to_all", config_.all_to_all);
}

bool CollectiveLibrary::is_algorithmic(CollectiveType type) {
  return type == CollectiveType::kAllReduce || type == CollectiveType::kAllGather ||
         type == CollectiveType::kReduceScatter || type == CollectiveType::kAllToAll;
}

const CollectiveAlgorithm* CollectiveLibrary::find_algorithm(CollectiveType type) const {
  switch (type) {
    case CollectiveType::kAllReduce:
      return all_reduce_.get();
    case CollectiveType::kAllGather:
      return all_gather_.get();
    case CollectiveType::kReduceScatter:
      return reduce_scatter_.get();
    case CollectiveType::kAllToAll:
      return all_to_all_.get();
    default:
      return nullptr;
  }
}

const CollectiveAlgorithm& CollectiveLibrary::algorithm(CollectiveType type) const {
  const CollectiveAlgorithm* found = find_algorithm(type);
  check(found != nullptr, "a registered collective has an algorithm");
  return *found;
}

Communicator CollectiveLibrary::communicator(const std::vector<Rank>& ranks, std::uint64_t id) const {
  Communicator result;
  const auto npus = static_cast<std::size_t>(network_.npus());
  result.place.assign(npus, -1);
  result.endpoint_delay_ns = config_.endpoint_delay_ns;
  result.id = id;
  result.ranks = ranks;
  if (ranks.empty() || ranks.size() == npus) {
    // The whole system uses the network's own order, whatever order is listed.
    result.ranks.resize(npus);
    std::iota(result.ranks.begin(), result.ranks.end(), 0);
  } else if (config_.parity) {
    result.endpoint_delay_ns = kGroupDelayNs;
  }
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    const Rank rank = ranks[i];
    if (rank < 0 || rank >= network_.npus()) {
      refuse("group " + std::to_string(id - 1) + ": rank " + std::to_string(rank) + " is not below npus_count " +
             std::to_string(npus));
    }
    std::int32_t& place = result.place[static_cast<std::size_t>(rank)];
    if (place != -1) {
      refuse("group " + std::to_string(id - 1) + ": rank " + std::to_string(rank) + " is listed twice");
    }
    place = static_cast<std::int32_t>(i);
  }
  for (std::size_t i = 0; i < result.ranks.size(); ++i) {
    result.place[static_cast<std::size_t>(result.ranks[i])] = static_cast<std::int32_t>(i);
  }
  return result;
}

Chunks CollectiveLibrary::chunks(CollectiveType type, Bytes size) const {
  const Chunks chunks = split(type, size, config_.preferred_dataset_splits, network_.npus());
  if (chunks.count == 0) {
    refuse("an all-gather of " + std::to_string(size) + " bytes cannot be split into preferred_dataset_splits = " +
           std::to_string(config_.preferred_dataset_splits) + " chunks");
  }
  return chunks;
}

bool CollectiveLibrary::is_instant(const Communicator& communicator, Bytes size) const {
  return !config_.parity && (communicator.ranks.size() == 1 || size == 0);
}

Time CollectiveLibrary::reduction(Bytes bytes) const { return reduction_time(bytes, config_.local_mem_bandwidth); }

void CollectiveLibrary::check_times(const Communicator& communicator, CollectiveType type, Bytes size,
                                    Rank rank) const {
  const auto members = static_cast<std::int32_t>(communicator.ranks.size());
  if (members == 1 || is_instant(communicator, size)) {
    return;
  }
  const CollectiveAlgorithm& algorithm = this->algorithm(type);
  const std::int32_t index = communicator.place[static_cast<std::size_t>(rank)];
  const Phase phase = algorithm.phase(type, chunks(type, size).bytes, members, index);
  const Block block = algorithm.block(phase, 0);
  network_.fixed_delay(rank, communicator.ranks[static_cast<std::size_t>(block.to)], block.bytes);
  reduction(block.bytes);
}

bool CollectiveLibrary::is_symmetric(const Communicator& communicator) const {
  const std::vector<Rank>& ranks = communicator.ranks;
  if (ranks.size() == 1) {
    return true;
  }
  for (std::size_t i = 1; i < ranks.size(); ++i) {
    if (!network_.are_alike(ranks[0], ranks[1], ranks[i], ranks[(i + 1) % ranks.size()])) {
      return false;
    }
  }
  return true;
}

Time CollectiveLibrary::symmetric_chunk_time(const Communicator& communicator, CollectiveType type, Bytes bytes) const {
  const CollectiveAlgorithm& algorithm = this->algorithm(type);
  const Phase phase = algorithm.phase(type, bytes, static_cast<std::int32_t>(communicator.ranks.size()), 0);
  const Block block = algorithm.block(phase, 0);
  const std::optional<Time> delay =
      network_.fixed_delay(communicator.ranks[0], communicator.ranks[static_cast<std::size_t>(block.to)], block.bytes);
  check(delay.has_value(), "only a network without contention has symmetric collectives in closed form");
  return checked_product(phase.to_send + 1, communicator.endpoint_delay_ns) + checked_product(phase.to_send, *delay) +
         checked_product(algorithm.reductions(phase), reduction(block.bytes));
}

Time CollectiveLibrary::symmetric_time(const Communicator& communicator, CollectiveType type, Bytes size) const {
  const Chunks chunks = this->chunks(type, size);
  const std::int64_t active = config_.active_chunks_per_dimension;
  const std::int64_t rounds = (chunks.count + active - 1) / active;
  return checked_product(rounds, symmetric_chunk_time(communicator, type, chunks.bytes));
}

}  // namespace astra
