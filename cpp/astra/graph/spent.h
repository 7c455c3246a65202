// What a rank waits for while its accelerator does not compute.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "astra/base/types.h"

namespace astra {

// In order of precedence: while two go on at once, the first has the time.
enum class Waits : std::uint8_t { kCompute = 0, kMessages = 1, kOffload = 2, kAccess = 3, kNothing = 4 };

// Time of a lane in which it did not compute and something else went on.
struct Spent {
  Time messages = 0;  // collectives, sends and receives
  Time offload = 0;   // memories that compute
  Time access = 0;    // loads and stores

  void add(Waits what, Time time) {
    messages += what == Waits::kMessages ? time : 0;
    offload += what == Waits::kOffload ? time : 0;
    access += what == Waits::kAccess ? time : 0;
  }
  Spent& operator+=(const Spent& other) {
    messages += other.messages;
    offload += other.offload;
    access += other.access;
    return *this;
  }
};

// Divides a lane's time among what goes on at each moment.
class SpentClock {
 public:
  void begin(Time now) {
    spent_ = {};
    under_way_ = {};
    since_ = now;
  }
  void start(Waits what, Time now) {
    pass(now);
    ++under_way_[static_cast<std::size_t>(what)];
  }
  void end(Waits what, Time now) {
    pass(now);
    --under_way_[static_cast<std::size_t>(what)];
  }
  const Spent& spent() const { return spent_; }
  void set(const Spent& spent) { spent_ = spent; }

 private:
  void pass(Time now) {
    if (now == since_) return;
    std::size_t first = 0;
    while (first < static_cast<std::size_t>(Waits::kNothing) && under_way_[first] == 0) ++first;
    spent_.add(static_cast<Waits>(first), now - since_);
    since_ = now;
  }

  Spent spent_;
  std::array<std::uint32_t, 5> under_way_{};
  Time since_ = 0;
};

}  // namespace astra
