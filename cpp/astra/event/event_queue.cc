#include "astra/event/event_queue.h"

#include <algorithm>

#include "astra/base/errors.h"

namespace astra {

Time EventQueue::time_after(Time delay) const {
  check(delay >= 0, "no event is scheduled in the past");
  Time time = 0;
  if (__builtin_add_overflow(now_, delay, &time)) {
    refuse("simulated time exceeds 2^63 ns: a duration or size is too large");
  }
  return time;
}

void EventQueue::push(Time time, std::uint64_t sequence, Call call) {
  heap_.push_back({time, sequence, next_sequence_++, call});
  std::push_heap(heap_.begin(), heap_.end(), Later{});
}

void EventQueue::schedule(Time delay, Call call) { push(time_after(delay), next_sequence_, call); }

void EventQueue::schedule_local(LocalTimes& rank, Time delay, Call call) {
  const Time time = time_after(delay);
  std::vector<LocalTimes::Pending>& pending = rank.pending_;
  std::uint64_t sequence = 0;
  for (std::size_t i = 0; i < pending.size();) {
    const LocalTimes::Pending entry = pending[i];
    const bool fired = entry.time < now_ || (entry.time == now_ && entry.sequence <= running_sequence_);
    if (fired) {
      pending[i] = pending.back();
      pending.pop_back();
      continue;
    }
    if (entry.time == time) {
      sequence = entry.sequence;
    }
    ++i;
  }
  if (sequence == 0) {
    sequence = next_sequence_;
    pending.push_back({time, sequence});
  }
  push(time, sequence, call);
}

void EventQueue::fire_next() {
  std::pop_heap(heap_.begin(), heap_.end(), Later{});
  const Event event = heap_.back();
  heap_.pop_back();
  check(event.time >= now_, "the clock never falls");
  now_ = event.time;
  running_sequence_ = event.sequence;
  event.call();
}

void EventQueue::move_to(Time time) {
  check(time >= now_ && (heap_.empty() || heap_.front().time >= time), "the clock skips no event");
  now_ = time;
}

}  // namespace astra
