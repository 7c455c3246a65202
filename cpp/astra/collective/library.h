// The collectives of one system: which phases a collective has on a rank. Shared by every run.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "astra/collective/algorithm.h"
#include "astra/collective/chunks.h"
#include "astra/collective/communicator.h"
#include "astra/collective/config.h"
#include "astra/network/grid.h"
#include "astra/network/network.h"

namespace astra {

constexpr std::uint32_t kAllDimensions = 0xffffffff;

// A collective as a graph node asks for it.
struct CollectiveRequest {
  const Communicator* communicator = nullptr;
  CollectiveType type = CollectiveType::kAllReduce;
  std::uint32_t involved_dims = kAllDimensions;  // counts for all ranks of the network, not for groups
  Bytes size = 0;
  std::int32_t priority = 0;  // under EXPLICIT
  std::int32_t program = -1;  // set of programs that replaces the algorithm
};

// Which queues of a dimension a phase rotates over.
enum class QueueHalf : std::uint8_t { kBoth, kFirst, kSecond };

struct PhasePlan {
  Phase phase;
  LogicalRing ring;
  std::uint32_t dimension = 0;
  QueueHalf half = QueueHalf::kBoth;
  const BlockAlgorithm* blocks = nullptr;  // one of the two
  const ProgramAlgorithm* steps = nullptr;
  std::int32_t variants = 1;
};

class CollectiveLibrary {
 public:
  // Raises std::invalid_argument on a wrong configuration.
  CollectiveLibrary(SystemConfig config, const Network& network);

  const SystemConfig& config() const { return config_; }
  const Network& network() const { return network_; }
  std::size_t dimensions() const { return grid_.dimensions(); }
  // Whether the type moves data by an algorithm.
  static bool is_algorithmic(CollectiveType type) { return list_index(type).has_value(); }
  // Raises std::invalid_argument on ranks out of range or listed twice; empty `ranks` means all.
  Communicator communicator(const std::vector<Rank>& ranks, std::uint64_t id) const;

  // Raises std::invalid_argument on a collective that can never complete: no algorithm for it, or for its number of
  // ranks; in parity mode, nothing to do.
  void check_request(const CollectiveRequest& request) const;
  // Raises std::invalid_argument if a rank's part takes longer than time can count, or the size cannot be split.
  void check_size(const CollectiveRequest& request) const;
  // Whether nothing has to move: one rank, no dimension, or no bytes. Never in parity mode.
  bool is_instant(const CollectiveRequest& request) const;
  Chunks chunks(CollectiveType type, Bytes size) const;
  // The phases of one chunk on a rank, in order.
  std::vector<PhasePlan> phases(const CollectiveRequest& request, Bytes bytes, Rank rank) const;
  // The steps of a rank when a program replaces the algorithm; else nothing.
  const Program* program(const CollectiveRequest& request, Rank rank) const;
  // What the whole collective takes once every rank has come, where that was measured.
  std::optional<Time> measured(const CollectiveRequest& request) const;
  // One write and two reads, each truncated.
  Time reduction(Bytes bytes) const;

 private:
  // One logical dimension of a type of collective.
  struct Dimension {
    std::uint32_t index = 0;
    std::string name;
    std::unique_ptr<CollectiveAlgorithm> algorithm;
  };
  struct List {
    std::vector<Dimension> dimensions;
    bool is_one = false;         // a single logical ring over the whole system
    bool is_for_groups = false;  // there is one name, which then holds for groups too
  };
  // A dimension that a collective uses, seen from one rank.
  struct Usable {
    std::uint32_t index;
    const Dimension* dimension;
    std::int32_t members;
    std::int32_t place;
    LogicalRing ring;
    bool is_group;
  };

  static std::optional<std::size_t> list_index(CollectiveType type);
  List make_list(const char* field, const std::vector<std::string>& names) const;
  const List& list(CollectiveType type) const { return lists_[*list_index(type)]; }
  const Dimension& group_dimension(const List& list) const;
  void find_box(Communicator& communicator) const;
  std::vector<Usable> usable(const CollectiveRequest& request, Rank rank) const;
  static PhasePlan plan(const Usable& usable, CollectiveType type, Bytes& bytes, QueueHalf half);

  SystemConfig config_;
  const Network& network_;
  Grid grid_;
  Dimension ring_dimension_;
  std::array<List, 4> lists_;
};

}  // namespace astra
