// The order in which the chunks of a rank's collectives use one dimension.
#pragma once

#include <cstdint>
#include <vector>

namespace astra {

// Streams wait by priority, higher first, and in order of entry within a priority.
class StreamQueue {
 public:
  void enter(std::uint32_t stream, std::int64_t priority);
  // A started stream leaves.
  void leave();
  // Takes the next stream to start, if fewer than `limit` are started.
  bool start(std::int64_t limit, std::uint32_t* stream);
  void clear();

 private:
  struct Waiting {
    std::int64_t priority;
    std::uint32_t stream;
  };
  std::vector<Waiting> waiting_;  // from head_ on
  std::size_t head_ = 0;
  std::int64_t started_ = 0;
};

}  // namespace astra
