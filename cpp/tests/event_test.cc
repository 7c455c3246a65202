#include <string>

#include "astra/base/errors.h"
#include "astra/event/event_queue.h"
#include "check.h"

namespace {

using astra::EventQueue;
using astra::LocalTimes;

// Writes down the letter of each event and the clock it saw.
class Recorder final : public astra::EventTarget {
 public:
  explicit Recorder(EventQueue& events) : events_(events) {}

  void fire(std::uint32_t code, std::uint64_t) override {
    seen += static_cast<char>(code);
    clock = events_.now();
  }
  astra::Call call(char letter) { return {this, static_cast<std::uint32_t>(letter), 0}; }

  std::string seen;
  astra::Time clock = -1;

 private:
  EventQueue& events_;
};

void drain(EventQueue& events) {
  while (!events.empty()) events.fire_next();
}

void orders_by_time_then_sequence() {
  EventQueue events;
  Recorder recorder(events);
  events.schedule(20, recorder.call('c'));
  events.schedule(10, recorder.call('a'));
  events.schedule(10, recorder.call('b'));
  drain(events);
  CHECK(recorder.seen == "abc");
  CHECK(recorder.clock == 20);
}

void sets_the_clock_before_the_action() {
  EventQueue events;
  Recorder recorder(events);
  events.schedule(7, recorder.call('a'));
  events.fire_next();
  CHECK(recorder.clock == 7 && events.now() == 7);
}

void groups_the_local_events_of_a_rank() {
  EventQueue events;
  Recorder recorder(events);
  LocalTimes first;
  LocalTimes second;
  events.schedule_local(first, 5, recorder.call('a'));
  events.schedule_local(second, 5, recorder.call('c'));
  events.schedule(5, recorder.call('d'));
  events.schedule_local(first, 5, recorder.call('b'));
  drain(events);
  CHECK(recorder.seen == "abcd");
}

void starts_a_new_group_once_one_has_run() {
  EventQueue events;
  Recorder recorder(events);
  LocalTimes rank;
  events.schedule_local(rank, 5, recorder.call('a'));
  events.schedule(5, recorder.call('b'));
  events.fire_next();
  events.schedule_local(rank, 0, recorder.call('c'));
  drain(events);
  CHECK(recorder.seen == "abc");
}

// Schedules another local event for the instant at which it runs.
class Follower final : public astra::EventTarget {
 public:
  Follower(EventQueue& events, LocalTimes& rank, astra::Call next) : events_(events), rank_(rank), next_(next) {}
  void fire(std::uint32_t, std::uint64_t) override { events_.schedule_local(rank_, 0, next_); }

 private:
  EventQueue& events_;
  LocalTimes& rank_;
  astra::Call next_;
};

void joins_the_group_that_runs() {
  EventQueue events;
  Recorder recorder(events);
  LocalTimes rank;
  Follower follower(events, rank, recorder.call('a'));
  events.schedule_local(rank, 5, {&follower, 0, 0});
  events.schedule(5, recorder.call('b'));
  drain(events);
  CHECK(recorder.seen == "ab");
}

void orders_many_instants() {
  EventQueue events;
  Recorder recorder(events);
  for (int i = 0; i < 1000; ++i) events.schedule((i * 7919) % 1000, recorder.call('x'));
  astra::Time last = 0;
  while (!events.empty()) {
    CHECK(events.next_time() >= last);
    last = events.next_time();
    events.fire_next();
  }
  CHECK(recorder.seen.size() == 1000 && last == 999);
}

void refuses_time_zero_on_demand() {
  EventQueue events;
  Recorder recorder(events);
  events.refuse_time_zero(true);
  CHECK_THROWS(events.schedule(0, recorder.call('a')), std::invalid_argument);
  events.schedule(1, recorder.call('b'));
  events.refuse_time_zero(false);
  events.schedule(0, recorder.call('a'));
  drain(events);
  CHECK(recorder.seen == "ab");
}

void refuses_the_past_and_the_end_of_time() {
  EventQueue events;
  Recorder recorder(events);
  CHECK_THROWS(events.schedule(-1, recorder.call('a')), astra::InvariantError);
  events.move_to(100);
  CHECK_THROWS(events.move_to(99), astra::InvariantError);
  CHECK_THROWS(events.schedule(INT64_MAX, recorder.call('a')), std::invalid_argument);
}

}  // namespace

Tests event_tests() {
  return {
      {"events are ordered by time, then by sequence", orders_by_time_then_sequence},
      {"the clock is set before the action runs", sets_the_clock_before_the_action},
      {"local events of a rank at one instant run together, where the first was registered",
       groups_the_local_events_of_a_rank},
      {"a local event added after its group has run goes to the end of the instant",
       starts_a_new_group_once_one_has_run},
      {"a local event added while its group runs joins it", joins_the_group_that_runs},
      {"many instants are met in order", orders_many_instants},
      {"an event at time 0 is refused while ASTRA-sim would abort", refuses_time_zero_on_demand},
      {"neither the past nor the end of time can be scheduled", refuses_the_past_and_the_end_of_time},
  };
}
