// Buffers of ranks that are filled ahead, by a node of one graph for a node of a later one.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <vector>

#include "astra/event/event_queue.h"
#include "astra/memory/memory_model.h"

namespace astra {

// A rank fills its buffers one after another, in the order in which it was asked to, as copies on one stream run. A
// buffer that nobody asked to fill is full: what it holds was there before the clock began.
class Buffers final : public EventTarget {
 public:
  explicit Buffers(EventQueue& events) : events_(events) {}

  // Begins to fill a buffer of the access's rank, when those before it are full.
  void fill(std::int32_t buffer, MemoryModel& memory, const MemoryAccess& access);
  // `full` is called by a later event: when the buffer is full, at this instant if it is.
  void await(Rank rank, std::int32_t buffer, Call full);

  void fire(std::uint32_t code, std::uint64_t arg) override;

 private:
  struct Fill {
    std::int32_t buffer;
    MemoryModel* memory;
    MemoryAccess access;
    std::vector<Call> awaited_by;
  };
  struct Stream {
    std::deque<Fill> fills;  // the first is under way
    LocalTimes local;
  };

  void begin(Rank rank);

  EventQueue& events_;
  std::map<Rank, Stream> streams_;
};

}  // namespace astra
