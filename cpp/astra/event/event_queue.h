// The clock and the list of what happens next.
#pragma once

#include <cstdint>
#include <vector>

#include "astra/base/flat_map.h"
#include "astra/base/slots.h"
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
    std::uint32_t group;
  };
  std::vector<Pending> pending_;
};

// Events in order of time, and of scheduling within an instant. The clock is set before the action runs.
//
// Ranks that work in lock step have few distinct times, so the events of an instant form a list, and only instants are
// sorted.
class EventQueue final : public EventTarget {
 public:
  Time now() const { return now_; }
  bool empty() const { return instants_.empty(); }
  Time next_time() const { return instants_.front().time; }

  // An event of its own, `delay` from now.
  void schedule(Time delay, Call call) { append(time_after(delay), call); }
  // A local event of a rank, `delay` from now.
  void schedule_local(LocalTimes& rank, Time delay, Call call);
  // Moves the clock to the next event and runs it; local events of one rank and instant count as one.
  void fire_next();
  // Moves the clock to `time` when nothing happens before.
  void move_to(Time time);
  // While set, an event at time 0 raises std::invalid_argument: ASTRA-sim aborts when its start-up causes one.
  void refuse_time_zero(bool is_refused) { is_zero_refused_ = is_refused; }

  // Runs a group of local events.
  void fire(std::uint32_t code, std::uint64_t arg) override;

 private:
  static constexpr std::uint32_t kNone = 0xffffffff;

  struct Event {
    Call call;
    std::uint32_t next = kNone;
  };
  struct List {
    std::uint32_t head = kNone;
    std::uint32_t tail = kNone;
  };
  struct Group {
    List events;
    LocalTimes* rank = nullptr;
  };
  struct Instant {
    Time time;
    std::uint32_t list;
    bool operator<(const Instant& other) const { return time > other.time; }  // the earliest on top
  };
  struct Hash {
    std::size_t operator()(Time time) const { return static_cast<std::size_t>(mix(static_cast<std::uint64_t>(time))); }
  };

  Time time_after(Time delay) const;
  void append(Time time, Call call);
  std::uint32_t list_at(Time time);
  void push(List& list, Call call);
  Call pop(List& list);

  std::vector<Instant> instants_;  // a heap
  FlatMap<Time, std::uint32_t, Hash> list_of_;
  Slots<List> lists_;
  Slots<Event> events_;
  Slots<Group> groups_;
  Time now_ = 0;
  Time latest_time_ = -1;  // of the list appended to last, which is mostly appended to next; -1: none
  std::uint32_t latest_list_ = kNone;
  bool is_zero_refused_ = false;
};

}  // namespace astra
