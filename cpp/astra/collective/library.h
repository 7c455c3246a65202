// The collectives of one system: algorithms by type, chunking, reductions. Shared by every run.
#pragma once

#include <memory>
#include <optional>

#include "astra/collective/algorithm.h"
#include "astra/collective/chunks.h"
#include "astra/collective/communicator.h"
#include "astra/collective/config.h"
#include "astra/network/network.h"

namespace astra {

class CollectiveLibrary {
 public:
  // Raises std::invalid_argument on a wrong configuration.
  CollectiveLibrary(const SystemConfig& config, const Network& network);

  const SystemConfig& config() const { return config_; }
  // What the priority of a rank's collectives grows by from one to the next.
  std::int64_t priority_step() const { return priority_step_; }
  // None for a type that moves no data by an algorithm or that the configuration gives none.
  const CollectiveAlgorithm* find_algorithm(CollectiveType type) const;
  const CollectiveAlgorithm& algorithm(CollectiveType type) const;
  // Whether the type moves data by an algorithm.
  static bool is_algorithmic(CollectiveType type);
  // Raises std::invalid_argument on ranks out of range or listed twice; empty `ranks` means all.
  Communicator communicator(const std::vector<Rank>& ranks, std::uint64_t id) const;
  // Raises std::invalid_argument on a size that ASTRA-sim would split for ever.
  Chunks chunks(CollectiveType type, Bytes size) const;
  // Whether nothing has to move: one rank, or (outside parity mode) no bytes.
  bool is_instant(const Communicator& communicator, Bytes size) const;
  Time reduction(Bytes bytes) const;
  // Raises std::invalid_argument if a rank's part in a collective takes longer than time can count.
  void check_times(const Communicator& communicator, CollectiveType type, Bytes size, Rank rank) const;
  // Whether all ranks of the communicator see equal distances, so that one stands for all.
  bool is_symmetric(const Communicator& communicator) const;
  // Time of a collective that all ranks of a symmetric communicator enter at the same instant.
  Time symmetric_time(const Communicator& communicator, CollectiveType type, Bytes size) const;

 private:
  Time symmetric_chunk_time(const Communicator& communicator, CollectiveType type, Bytes bytes) const;

  SystemConfig config_;
  std::int64_t priority_step_ = 0;
  const Network& network_;
  std::unique_ptr<CollectiveAlgorithm> all_reduce_;
  std::unique_ptr<CollectiveAlgorithm> all_gather_;
  std::unique_ptr<CollectiveAlgorithm> reduce_scatter_;
  std::unique_ptr<CollectiveAlgorithm> all_to_all_;
};

}  // namespace astra
