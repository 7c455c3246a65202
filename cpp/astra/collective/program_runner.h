// Executes collectives that are spelled out step by step.
#pragma once

#include <cstdint>
#include <vector>

#include "astra/base/slots.h"
#include "astra/collective/bus.h"
#include "astra/collective/communicator.h"
#include "astra/collective/library.h"
#include "astra/collective/program.h"
#include "astra/event/event_queue.h"
#include "astra/network/mailbox.h"

namespace astra {

// Where a program runs.
struct ProgramPlace {
  Rank rank = 0;
  LocalTimes* local = nullptr;
  LogicalRing ring;         // of the peers
  Time endpoint_delay = 0;  // paid where there is no bus
  SharedBus* bus = nullptr;
  std::uint64_t tag = 0;        // of its messages, to which a step's own is added
  bool is_user_tagged = false;  // a step's own tag stands alone, among those of sends and receives
};

class ProgramRunner final : public EventTarget {
 public:
  ProgramRunner(EventQueue& events, Messenger& messenger, const CollectiveLibrary& library)
      : events_(events), messenger_(messenger), library_(library) {}

  // Starts a program; `ended` is called when all steps to wait for have ended.
  void start(const ProgramPlace& place, Program program, Call ended);
  // Forgets everything.
  void clear() { runs_.clear(); }

  void fire(std::uint32_t code, std::uint64_t arg) override;

 private:
  enum Code : std::uint32_t { kStepDone, kStepReduces };

  struct Run {
    ProgramPlace place;
    Program program;
    Dependencies left;
    std::size_t awaited = 0;        // steps that must still end
    std::uint32_t pairs_begun = 0;  // steps begun that are BusWay::kBackIfSecond
    Call ended;
  };

  void start_step(std::uint32_t run, std::uint32_t step);
  void end_step(std::uint32_t run, std::uint32_t step);
  void pass_endpoint(std::uint32_t run, const Step& step, Call passed);

  EventQueue& events_;
  Messenger& messenger_;
  const CollectiveLibrary& library_;
  Slots<Run> runs_;
};

}  // namespace astra
