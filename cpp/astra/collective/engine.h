// Executes the collectives of one run: splits them into streams, queues these, and drives their algorithms.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "astra/base/slots.h"
#include "astra/collective/bus.h"
#include "astra/collective/library.h"
#include "astra/collective/program_runner.h"
#include "astra/collective/stream_queue.h"
#include "astra/event/event_queue.h"
#include "astra/network/mailbox.h"

namespace astra {

// Round robin over the queues of a dimension, and over the variants of its algorithms.
struct Turns {
  std::uint32_t both = 0;
  std::uint32_t first = 0;
  std::uint32_t second = 0;
  std::array<std::uint32_t, 8> variant{};  // by type of collective
};
// By rank, then by dimension.
using TurnsOfRanks = std::vector<std::vector<Turns>>;

class CollectiveEngine final : public EventTarget {
 public:
  // Turns begin anew with every reset, unless `turns` keeps them over several runs.
  CollectiveEngine(EventQueue& events, Messenger& messenger, const CollectiveLibrary& library,
                   TurnsOfRanks* turns = nullptr);

  // Forgets everything and prepares for that many ranks.
  void reset(std::size_t lanes);
  // Starts a collective on a rank, whose local events go to `local`; `done` is called when it has ended there.
  void issue(std::uint32_t lane, LocalTimes& local, Rank rank, const CollectiveRequest& request, Call done);

  void fire(std::uint32_t code, std::uint64_t arg) override;

 private:
  enum Code : std::uint32_t { kTick, kEndpointDone, kReceived, kPhaseDone };

  // Which queue of its dimension a phase of a stream uses, and which variant of its algorithm.
  struct Choice {
    std::uint32_t queue = 0;
    std::int32_t variant = 0;
  };
  struct LaneState {
    std::vector<StreamQueue> queues;  // of dimension 0, then of dimension 1, ...
    std::vector<Turns> turns;         // by dimension
    std::int64_t priority = 0;
    std::vector<std::uint64_t> streams_of;  // by communicator id
    std::unique_ptr<SharedBus> bus;
  };
  struct Collective {
    Call done;
    std::int64_t streams_left = 0;
    const Communicator* communicator = nullptr;
    std::vector<PhasePlan> phases;
    std::vector<PhasePlan> last_phases;  // of the last chunk, where it is smaller
    const Program* program = nullptr;    // instead of phases
  };
  struct Stream {
    // of the phase
    Phase phase;
    LogicalRing ring;
    const BlockAlgorithm* blocks = nullptr;
    std::int64_t credit = 0;
    std::int64_t prepared = 0;
    std::int64_t sent = 0;
    std::int64_t received = 0;
    // of the stream
    Rank rank = 0;
    LocalTimes* local = nullptr;
    Time endpoint_delay = 0;
    std::uint64_t tag = 0;
    std::uint32_t lane = 0;
    std::uint32_t collective = 0;
    std::uint32_t next_phase = 0;
    std::uint32_t queue = 0;  // where it is
    bool is_last = false;     // the last chunk of its collective
    std::int64_t priority = 0;
    std::vector<Choice> choices;  // per phase; empty where there is only one
  };
  // A measured collective, which begins when every rank has come.
  struct Meeting {
    std::vector<std::pair<LocalTimes*, Call>> ranks;
  };
  struct Hash {
    std::size_t operator()(std::uint64_t key) const { return static_cast<std::size_t>(mix(key)); }
  };

  std::uint64_t next_tag(LaneState& lane, const Communicator& communicator);
  std::int64_t next_priority(LaneState& lane, const CollectiveRequest& request);
  void meet(std::uint64_t tag, LocalTimes& local, std::int32_t expected, Time time, Call done);
  void create(std::uint32_t collective, Stream stream);
  const std::vector<PhasePlan>& phases(const Stream& stream) const;
  void choose(LaneState& lane, CollectiveType type, Stream& stream);
  std::uint32_t turn(Turns& turns, QueueHalf half) const;
  bool is_clockwise(QueueHalf half, std::uint32_t queue) const;
  void enter_next_queue(std::uint32_t stream);
  void start_waiting(std::uint32_t lane, std::uint32_t queue);
  void start_phase(std::uint32_t stream);
  void move_on(std::uint32_t stream);
  void prepare(std::uint32_t stream);
  void try_send(std::uint32_t stream);
  void tick(std::uint32_t stream);
  void endpoint_done(std::uint32_t stream, std::int64_t k);

  EventQueue& events_;
  Messenger& messenger_;
  const CollectiveLibrary& library_;
  TurnsOfRanks* kept_turns_;
  ProgramRunner programs_;
  std::int64_t queues_per_dimension_;
  std::int64_t started_per_queue_;
  std::vector<LaneState> lanes_;
  Slots<Stream> streams_;
  Slots<Collective> collectives_;
  Slots<Meeting> meetings_;
  FlatMap<std::uint64_t, std::uint32_t, Hash> meeting_of_;
};

}  // namespace astra
