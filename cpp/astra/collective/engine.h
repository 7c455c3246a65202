// Executes the collectives of one run: splits them into streams, queues these and drives their algorithms.
#pragma once

#include <cstdint>
#include <vector>

#include "astra/base/slots.h"
#include "astra/collective/library.h"
#include "astra/collective/stream_queue.h"
#include "astra/event/event_queue.h"
#include "astra/network/mailbox.h"

namespace astra {

// A collective as a graph node asks for it.
struct CollectiveRequest {
  const Communicator& communicator;
  CollectiveType type;
  Bytes size;
};

class CollectiveEngine final : public EventTarget {
 public:
  CollectiveEngine(EventQueue& events, Mailbox& mailbox, const CollectiveLibrary& library);

  // Forgets everything and prepares for ranks (in any order) whose local events go to `local`.
  void reset(std::size_t lanes);
  // Starts a collective on a rank; `done` is called when it has ended there.
  void issue(std::uint32_t lane, LocalTimes& local, Rank rank, const CollectiveRequest& request, Call done);

  void fire(std::uint32_t code, std::uint64_t arg) override;

 private:
  enum Code : std::uint32_t { kTick, kEndpointDone, kReceived };

  struct LaneState {
    StreamQueue queue;
    std::int64_t priority = 0;
    std::vector<std::uint64_t> streams_of;  // by communicator id
  };
  struct Collective {
    Call done;
    std::int64_t streams_left = 0;
  };
  struct Stream {
    Phase phase;
    const CollectiveAlgorithm* algorithm = nullptr;
    const Communicator* communicator = nullptr;
    LocalTimes* local = nullptr;
    std::uint32_t lane = 0;
    std::uint32_t collective = 0;
    std::uint64_t tag = 0;
    std::int64_t credit = 0;
    std::int64_t prepared = 0;
    std::int64_t sent = 0;
  };

  std::uint64_t next_tag(LaneState& lane, const Communicator& communicator);
  void start_waiting(std::uint32_t lane);
  void prepare(std::uint32_t stream);
  void tick(std::uint32_t stream);
  void try_send(std::uint32_t stream);
  void move_on(std::uint32_t stream);

  EventQueue& events_;
  Mailbox& mailbox_;
  const CollectiveLibrary& library_;
  std::vector<LaneState> lanes_;
  Slots<Stream> streams_;
  Slots<Collective> collectives_;
};

}  // namespace astra
