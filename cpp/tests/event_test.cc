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
      {"neither the past nor the end of time can be scheduled", refuses_the_past_and_the_end_of_time},
  };
}
