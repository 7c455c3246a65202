// Queues: each server takes one access at a time, in order of arrival.
#pragma once

#include <cstdint>
#include <deque>

#include "astra/event/event_queue.h"
#include "astra/memory/memory_model.h"

namespace astra {

// Servers are numbered from 0 and exist once they are used.
class Servers final : public EventTarget {
 public:
  // Counts into `use`.
  Servers(EventQueue& events, MemoryUse& use) : events_(events), use_(use) {}

  void serve(std::size_t server, Time service, LocalTimes& local, Call done);
  // Of `count` servers from `first` on, the one that will be free first; the lowest of those that are equally early.
  std::size_t free_first(std::size_t first, std::size_t count) const;

  void fire(std::uint32_t code, std::uint64_t arg) override;

 private:
  struct Request {
    LocalTimes* local;
    Time service;
    Call done;
  };
  struct Server {
    std::deque<Request> waiting;  // the first is in service
    Time free_at = 0;
  };

  void begin(std::size_t server);

  std::deque<Server> servers_;
  EventQueue& events_;
  MemoryUse& use_;
};

}  // namespace astra
