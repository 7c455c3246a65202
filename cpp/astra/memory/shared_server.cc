#include "astra/memory/shared_server.h"

#include <algorithm>

#include "astra/base/truncate.h"

namespace astra {
namespace {

// Shares are quotients of doubles; without it an end at 30 could fall to 29.
constexpr double kRounding = 1e-6;
// Before the rounding of `served_` itself reaches kRounding, it starts again from 0.
constexpr double kMostServed = 1 << 24;

}  // namespace

void SharedServer::serve(Time latency, double service, Call done) {
  if (under_way_ == 0) {
    busy_since_ = events_.now();
  }
  use_.longest_queue = std::max(use_.longest_queue, ++under_way_);
  const std::uint32_t arrival = arriving_.take();
  arriving_[arrival] = {service, done};
  events_.schedule(latency, {this, kJoin, arrival});
}

void SharedServer::fire(std::uint32_t code, std::uint64_t arg) {
  if (code == kEnd && arg != latest_end_) {
    return;
  }
  const std::vector<Call> ended = tell_ended();
  move_on();
  if (code == kJoin) {
    const auto arrival = static_cast<std::uint32_t>(arg);
    join(arriving_[arrival]);
    arriving_.give_back(arrival);
  }
  schedule_next();
  for (const Call& done : ended) {
    done();
  }
}

// Calls visit(access, whole nanoseconds from `at_` to its end) in order of the ends, until it returns false.
template <typename Visit>
void SharedServer::visit_ends(Visit visit) {
  // Of an access that has always been alone the end is one quotient, truncated as everywhere.
  const double rounding = sharing_.size() == 1 && served_ == 0 ? 0 : kRounding;
  double time = 0;
  double served = served_;
  std::size_t there = sharing_.size();
  for (auto& [end, sharing] : sharing_) {
    time += std::max(end - served, 0.0) * static_cast<double>(there--);
    served = end;
    if (!visit(sharing, truncate(time + rounding))) {
      return;
    }
  }
}

std::vector<Call> SharedServer::tell_ended() {
  const Time now = events_.now();
  std::vector<Call> ended;
  visit_ends([&](Sharing& sharing, Time end) {
    if (end > now - at_) {
      return false;
    }
    if (!sharing.has_ended) {
      sharing.has_ended = true;
      ended.push_back(sharing.done);
      --under_way_;
    }
    return true;
  });
  if (!ended.empty() && under_way_ == 0) {
    use_.busy_ns = saturating_sum(use_.busy_ns, now - busy_since_);
  }
  return ended;
}

// Serves everybody up to now.
void SharedServer::move_on() {
  auto left = static_cast<double>(events_.now() - at_);
  at_ = events_.now();
  while (!sharing_.empty()) {
    const auto first = sharing_.begin();
    const auto there = static_cast<double>(sharing_.size());
    const double more = first->first - served_;
    if (more * there > left || !first->second.has_ended) {
      served_ += std::min(left / there, more);
      return;
    }
    left -= more * there;
    served_ = first->first;
    sharing_.erase(first);
  }
}

void SharedServer::join(const Arrival& arrival) {
  const bool is_idle =
      std::all_of(sharing_.begin(), sharing_.end(), [](const auto& entry) { return entry.second.has_ended; });
  if (is_idle) {
    sharing_.clear();
    served_ = 0;
  } else if (served_ > kMostServed) {
    std::multimap<double, Sharing> from_zero;
    for (const auto& [end, sharing] : sharing_) {
      from_zero.insert({end - served_, sharing});
    }
    sharing_.swap(from_zero);
    served_ = 0;
  }
  sharing_.insert({served_ + arrival.service, {arrival.done}});
}

void SharedServer::schedule_next() {
  visit_ends([this](const Sharing& sharing, Time end) {
    if (sharing.has_ended) {
      return true;
    }
    events_.schedule(end, {this, kEnd, ++latest_end_});
    return false;
  });
}

}  // namespace astra
