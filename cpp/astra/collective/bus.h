// ASTRA-sim's shared bus between a rank and its network interface: a LogGP-like link with two sides, of which the
// rank's side has a link of its own to memory behind it.
#pragma once

#include <array>
#include <cstdint>
#include <deque>

#include "astra/base/slots.h"
#include "astra/event/event_queue.h"

namespace astra {

struct BusConfig {
  Time L = 0;    // latency
  Time o = 0;    // overhead
  Time g = 0;    // gap
  double G = 0;  // nanoseconds per byte
};

// What a preparation asks of the bus.
struct BusTransfer {
  bool from_network = false;  // starts on the network's side instead of the rank's
  bool is_processed = false;  // is reduced at its arrival
  bool goes_back = false;     // returns to the side where it started
  Bytes bytes = 0;
};

class SharedBus final : public EventTarget {
 public:
  SharedBus(const BusConfig& config, Time reduction_delay_ns, EventQueue& events);

  // `done` is called when the transfer has been handed over.
  void request(const BusTransfer& transfer, LocalTimes& local, Call done);

  void fire(std::uint32_t code, std::uint64_t arg) override;

 private:
  // The rank's and the network's side of the bus, then the two sides of the link behind the rank's side.
  enum Side : std::uint32_t { kNpu, kMa, kInnerNpu, kInnerMa };
  enum Code : std::uint32_t { kSent, kReceived, kProcessed, kEnterSends, kEnterProcessing, kHandOver };
  enum class State : std::uint8_t { kFree, kSending, kReceiving };

  struct Transfer {
    BusTransfer what;
    LocalTimes* local = nullptr;
    Call done;
  };
  struct SideState {
    State state = State::kFree;
    State previous = State::kFree;
    Time last_end = 0;
    std::int64_t sends_in_a_row = 0;
    std::deque<std::uint32_t> sends;
    std::deque<std::uint32_t> receives;
    std::deque<std::uint32_t> processing;
    double ns_per_byte = 0;
  };

  static Side partner(Side side) { return static_cast<Side>(side ^ 1U); }
  static bool has_inner(Side side) { return side == kNpu; }
  void enter(Side side, BusTransfer what, LocalTimes& local, Call done);
  void enter_sends(Side side, std::uint32_t transfer);
  void enter_processing(Side side, std::uint32_t transfer);
  void start_processing(Side side);
  void try_send(Side side);
  void send(Side side);
  void end_receive(Side side);
  void route(Side side, std::uint32_t transfer);
  void hand_over(std::uint32_t transfer);
  void inner(std::uint32_t transfer, bool goes_back, Code then);

  Time latency_;
  Time overhead_;
  Time gap_;
  Time reduction_delay_ns_;
  EventQueue& events_;
  std::array<SideState, 4> sides_;
  Slots<Transfer> transfers_;
};

}  // namespace astra
