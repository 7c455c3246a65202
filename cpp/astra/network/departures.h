// When flows leave their links, the earliest first.
#pragma once

#include <cstdint>
#include <vector>

#include "astra/base/types.h"

namespace astra {

// A heap whose entries move when their times change; flows are small indices. Ties go by `order`.
class Departures {
 public:
  bool empty() const { return heap_.empty(); }
  Time next_time() const { return heap_.front().time; }
  // Enters a flow, or moves it.
  void set(std::uint32_t flow, Time time, std::uint64_t order);
  // Takes the flow that leaves next.
  std::uint32_t pop();

 private:
  static constexpr std::uint32_t kAbsent = 0xffffffff;
  struct Entry {
    Time time;
    std::uint64_t order;
    std::uint32_t flow;
    bool operator<(const Entry& other) const { return time != other.time ? time < other.time : order < other.order; }
  };

  void put(std::uint32_t place, const Entry& entry);
  void rise(std::uint32_t place, const Entry& entry);
  void sink(std::uint32_t place, const Entry& entry);

  std::vector<Entry> heap_;
  std::vector<std::uint32_t> places_;  // in the heap, by flow
};

}  // namespace astra
