// The time of a collective in which all ranks do the same at the same instants, so that one of them tells it.
#pragma once

#include <cstdint>
#include <unordered_map>

#include "astra/collective/library.h"

namespace astra {

class SymmetricTimer {
 public:
  explicit SymmetricTimer(const CollectiveLibrary& library) : library_(library) {}

  // Whether no rank of the communicator can differ from another by a nanosecond when all enter at once, and whatever
  // ran before: equal distances over a network without contention, algorithms that treat all places alike.
  bool is_symmetric(const CollectiveRequest& request) const;
  // What it then takes, entered at the same instant by all.
  Time time(const CollectiveRequest& request);

 private:
  struct Key {
    const Communicator* communicator;
    CollectiveType type;
    std::uint32_t involved_dims;
    Bytes size;
    bool operator==(const Key&) const = default;
  };
  struct Hash {
    std::size_t operator()(const Key& key) const;
  };

  bool is_alike(const PhasePlan& first, const PhasePlan& other) const;
  bool has_product_form(const Chunks& chunks, const std::vector<PhasePlan>& phases) const;
  Time product(const Communicator& communicator, const PhasePlan& plan, std::int64_t rounds) const;
  Time simulate(const CollectiveRequest& request) const;

  const CollectiveLibrary& library_;
  std::unordered_map<Key, Time, Hash> known_;
};

}  // namespace astra
