// The clock and the list of what happens next.
#pragma once

#include <cstdint>
#include <vector>

#include "astra/base/types.h"

namespace astra {

// Whoever an event calls. `code` and `arg` mean what the target says they mean.
class EventTarget {
 public:
  virtual void fire(std::uint32_t code, std::uint64_t arg) = 0;

 protected:
  EventTarget() = default;
  EventTarget(const EventTarget&) = default;
  EventTarget& operator=(const EventTarget&) = default;
  ~EventTarget() = default;
};

// A call to make later.
struct Call {
  EventTarget* target = nullptr;
  std::uint32_t code = 0;
  std::uint64_t arg = 0;

  void operator()() const {
    if (target != nullptr) {
      target->fire(code, arg);
    }
  }
};

// The instants at which one rank has local events pending. ASTRA-sim runs all local events that a rank has at one
// instant together, at the place of the one that was registered first; that decides ties.
class LocalTimes {
  friend class EventQueue;
  struct Pending {
    Time time;
    std::uint64_t sequence;
  };
  std::vector<Pending> pending_;
};

// Events ordered by (time, sequence). The clock is set before the action runs.
class EventQueue {
 public:
  Time now() const { return now_; }
  bool empty() const { return heap_.empty(); }
  Time next_time() const { return heap_.front().time; }

  // An event of its own, `delay` from now.
  void schedule(Time delay, Call call);
  // A local event of a rank, `delay` from now.
  void schedule_local(LocalTimes& rank, Time delay, Call call);
  // Moves the clock to the next event and runs it.
  void fire_next();
  // Moves the clock to `time` when nothing happens before.
  void move_to(Time time);

 private:
  struct Event {
    Time time;
    std::uint64_t sequence;  // shared by the local events that run together
    std::uint64_t order;     // within a sequence
    Call call;
  };
  struct Later {
    bool operator()(const Event& a, const Event& b) const {
      if (a.time != b.time) return a.time > b.time;
      if (a.sequence != b.sequence) return a.sequence > b.sequence;
      return a.order > b.order;
    }
  };

  Time time_after(Time delay) const;
  void push(Time time, std::uint64_t sequence, Call call);

  std::vector<Event> heap_;
  Time now_ = 0;
  std::uint64_t next_sequence_ = 1;
  std::uint64_t running_sequence_ = 0;
};

}  // namespace astra
