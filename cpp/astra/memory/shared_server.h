// Processor sharing: everybody who is there has an equal share of one server.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "astra/base/slots.h"
#include "astra/event/event_queue.h"
#include "astra/memory/memory_model.h"

namespace astra {

// Exact: while n accesses are there, each is served dt / n in dt. An access ends in the nanosecond in which its exact
// end lies; the rest of that nanosecond still counts for those it shares with, so that no service is lost or found.
class SharedServer final : public EventTarget {
 public:
  // Counts into `use`.
  SharedServer(EventQueue& events, MemoryUse& use) : events_(events), use_(use) {}
  SharedServer(const SharedServer&) = delete;
  SharedServer& operator=(const SharedServer&) = delete;

  // Waits for `latency`, which is shared with nobody, then shares until it has had `service` nanoseconds of the server.
  void serve(Time latency, double service, Call done);

  void fire(std::uint32_t code, std::uint64_t arg) override;

 private:
  enum Code : std::uint32_t { kJoin, kEnd };
  struct Arrival {
    double service = 0;
    Call done;
  };
  struct Sharing {
    Call done;
    bool has_ended = false;  // its caller knows; what is left of the nanosecond is still served
  };

  template <typename Visit>
  void visit_ends(Visit visit);
  std::vector<Call> tell_ended();
  void move_on();
  void join(const Arrival& arrival);
  void schedule_next();

  EventQueue& events_;
  MemoryUse& use_;
  Slots<Arrival> arriving_;
  std::multimap<double, Sharing> sharing_;  // by the value of `served_` at which each ends
  double served_ = 0;                       // what an access that was there all along has had
  Time at_ = 0;                             // the time for which `served_` holds
  std::int64_t under_way_ = 0;
  Time busy_since_ = 0;
  std::uint64_t latest_end_ = 0;  // number of the end that is scheduled; earlier ones are void
};

}  // namespace astra
