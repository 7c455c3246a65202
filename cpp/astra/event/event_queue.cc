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
  if (is_zero_refused_ && time == 0) [[unlikely]] {
    refuse("something ends at time 0, at which ASTRA-sim aborts: a first node of zero length, or endpoint-delay 0");
  }
  return time;
}

void EventQueue::push(List& list, Call call) {
  const std::uint32_t event = events_.take();
  events_[event].call = call;
  if (list.tail == kNone) {
    list.head = event;
  } else {
    events_[list.tail].next = event;
  }
  list.tail = event;
}

Call EventQueue::pop(List& list) {
  const std::uint32_t event = list.head;
  const Call call = events_[event].call;
  list.head = events_[event].next;
  if (list.head == kNone) {
    list.tail = kNone;
  }
  events_.give_back(event);
  return call;
}

std::uint32_t EventQueue::list_at(Time time) {
  if (time == latest_time_) {
    return latest_list_;
  }
  const std::uint32_t* found = list_of_.find(time);
  latest_time_ = time;
  if (found != nullptr) {
    latest_list_ = *found;
    return latest_list_;
  }
  latest_list_ = lists_.take();
  list_of_.insert(time, latest_list_);
  instants_.push_back({time, latest_list_});
  std::push_heap(instants_.begin(), instants_.end());
  return latest_list_;
}

void EventQueue::append(Time time, Call call) { push(lists_[list_at(time)], call); }

void EventQueue::schedule_local(LocalTimes& rank, Time delay, Call call) {
  const Time time = time_after(delay);
  std::vector<LocalTimes::Pending>& pending = rank.pending_;
  for (std::size_t i = pending.size(); i-- > 0;) {
    if (pending[i].time == time) {
      push(groups_[pending[i].group].events, call);
      return;
    }
  }
  const std::uint32_t group = groups_.take();
  groups_[group].rank = &rank;
  push(groups_[group].events, call);
  pending.push_back({time, group});
  append(time, {this, 0, group});
}

void EventQueue::fire(std::uint32_t, std::uint64_t arg) {
  const auto group = static_cast<std::uint32_t>(arg);
  while (groups_[group].events.head != kNone) {  // events that join while it runs included
    pop(groups_[group].events)();
  }
  std::vector<LocalTimes::Pending>& pending = groups_[group].rank->pending_;
  const auto own = std::find_if(pending.begin(), pending.end(), [group](const auto& p) { return p.group == group; });
  *own = pending.back();
  pending.pop_back();
  groups_.give_back(group);
}

void EventQueue::fire_next() {
  const Instant instant = instants_.front();
  check(instant.time >= now_, "the clock never falls");
  now_ = instant.time;
  List& list = lists_[instant.list];
  const Call call = pop(list);
  if (list.head == kNone) {
    std::pop_heap(instants_.begin(), instants_.end());
    instants_.pop_back();
    list_of_.erase(list_of_.find(instant.time));
    lists_.give_back(instant.list);
    if (latest_time_ == instant.time) {
      latest_time_ = -1;
    }
  }
  call();
}

void EventQueue::move_to(Time time) {
  check(time >= now_ && (empty() || next_time() >= time), "the clock skips no event");
  now_ = time;
}

}  // namespace astra
