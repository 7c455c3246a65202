#include "astra/collective/bus.h"

#include "astra/base/errors.h"
#include "astra/base/truncate.h"

namespace astra {
namespace {

constexpr double kInnerNsPerByte = 0.0038;
constexpr std::int64_t kMostInARow = 8;
constexpr Bytes kProcessedPerDelay = 100;
constexpr Time kProcessingNs = 50;
constexpr std::uint32_t kSideShift = 32;

}  // namespace

SharedBus::SharedBus(const BusConfig& config, Time reduction_delay_ns, EventQueue& events)
    : latency_(config.L),
      overhead_(config.o),
      gap_(config.g),
      reduction_delay_ns_(reduction_delay_ns),
      events_(events) {
  sides_[kNpu].ns_per_byte = sides_[kMa].ns_per_byte = config.G;
  sides_[kInnerNpu].ns_per_byte = sides_[kInnerMa].ns_per_byte = kInnerNsPerByte;
}

void SharedBus::request(const BusTransfer& transfer, LocalTimes& local, Call done) {
  enter(transfer.from_network ? kMa : kNpu, transfer, local, done);
}

void SharedBus::enter(Side side, BusTransfer what, LocalTimes& local, Call done) {
  const std::uint32_t transfer = transfers_.take();
  transfers_[transfer] = {what, &local, done};
  if (has_inner(side)) {
    // What the rank sends comes from its memory first.
    enter(kInnerMa, {.bytes = what.bytes}, local, {this, kEnterSends, std::uint64_t{side} << kSideShift | transfer});
  } else {
    enter_sends(side, transfer);
  }
}

void SharedBus::enter_sends(Side side, std::uint32_t transfer) {
  sides_[side].sends.push_back(transfer);
  try_send(side);
}

void SharedBus::try_send(Side side) {
  SideState& own = sides_[side];
  if (own.state != State::kFree || own.sends.empty()) {
    return;
  }
  SideState& other = sides_[partner(side)];
  if (own.sends_in_a_row > kMostInARow && !other.sends.empty() && other.sends_in_a_row <= kMostInARow) {
    try_send(partner(side));
    return;
  }
  send(side);
}

void SharedBus::send(Side side) {
  SideState& own = sides_[side];
  SideState& other = sides_[partner(side)];
  const std::uint32_t transfer = own.sends.front();
  own.sends.pop_front();
  Time offset = overhead_;
  if (own.previous == State::kSending) {
    const Time since = events_.now() - own.last_end;
    offset = overhead_ + since > gap_ ? overhead_ : gap_ - since;
  }
  const Transfer& t = transfers_[transfer];
  const double pushing = own.ns_per_byte * static_cast<double>(t.what.bytes - 1);
  other.receives.push_back(transfer);
  other.previous = other.state;
  other.state = State::kReceiving;
  other.sends_in_a_row = 0;
  own.state = State::kSending;
  const std::uint64_t to = partner(side);
  const double received = static_cast<double>(offset) + pushing + static_cast<double>(latency_ + overhead_);
  events_.schedule_local(*t.local, truncate(received), {this, kReceived, to << kSideShift});
  events_.schedule_local(*t.local, truncate(static_cast<double>(offset) + pushing),
                         {this, kSent, std::uint64_t{side} << kSideShift});
}

// Through the link behind the rank's side, there and perhaps back; then `then` happens to the transfer at that side.
void SharedBus::inner(std::uint32_t transfer, bool goes_back, Code then) {
  const Transfer& t = transfers_[transfer];
  LocalTimes& local = *t.local;
  enter(kInnerNpu, {.goes_back = goes_back, .bytes = t.what.bytes}, local,
        {this, then, std::uint64_t{kNpu} << kSideShift | transfer});
}

void SharedBus::end_receive(Side side) {
  SideState& own = sides_[side];
  check(!own.receives.empty(), "a bus ends only receives that began");
  own.last_end = events_.now();
  own.previous = own.state;
  if (own.receives.size() < 2) {
    own.state = State::kFree;
  }
  const std::uint32_t transfer = own.receives.front();
  own.receives.pop_front();
  if (!transfers_[transfer].what.is_processed) {
    route(side, transfer);
    return;
  }
  transfers_[transfer].what.is_processed = false;
  if (has_inner(side)) {
    inner(transfer, true, kEnterProcessing);
  } else {
    enter_processing(side, transfer);
  }
}

// Where a transfer goes that has arrived and been processed.
void SharedBus::route(Side side, std::uint32_t transfer) {
  const bool goes_back = transfers_[transfer].what.goes_back;
  transfers_[transfer].what.goes_back = false;
  if (has_inner(side)) {
    inner(transfer, goes_back, goes_back ? kEnterSends : kHandOver);
  } else if (goes_back) {
    enter_sends(side, transfer);
  } else {
    hand_over(transfer);
  }
}

void SharedBus::enter_processing(Side side, std::uint32_t transfer) {
  sides_[side].processing.push_back(transfer);
  if (sides_[side].processing.size() == 1) {
    start_processing(side);
  }
}

void SharedBus::start_processing(Side side) {
  const Transfer& t = transfers_[sides_[side].processing.front()];
  const Time time = t.what.bytes / kProcessedPerDelay * reduction_delay_ns_ + kProcessingNs;
  events_.schedule_local(*t.local, time, {this, kProcessed, std::uint64_t{side} << kSideShift});
}

void SharedBus::hand_over(std::uint32_t transfer) {
  const Call done = transfers_[transfer].done;
  transfers_.give_back(transfer);
  done();
}

void SharedBus::fire(std::uint32_t code, std::uint64_t arg) {
  const auto side = static_cast<Side>(arg >> kSideShift);
  const auto transfer = static_cast<std::uint32_t>(arg);
  SideState& own = sides_[side];
  switch (code) {
    case kSent:
      own.last_end = events_.now();
      own.previous = own.state;
      own.state = State::kFree;
      ++own.sends_in_a_row;
      break;
    case kReceived:
      end_receive(side);
      break;
    case kProcessed: {
      const std::uint32_t processed = own.processing.front();
      own.processing.pop_front();
      route(side, processed);
      if (!own.processing.empty()) start_processing(side);
      break;
    }
    case kEnterSends:
      own.sends.push_back(transfer);
      break;
    case kEnterProcessing:
      enter_processing(side, transfer);
      break;
    default:
      hand_over(transfer);
  }
  try_send(side);
}

}  // namespace astra
