#include "astra/collective/engine.h"

#include "astra/base/errors.h"

namespace astra {
namespace {

constexpr std::uint64_t kCollectiveTags = std::uint64_t{1} << 63;  // apart from the tags of sends and receives
constexpr std::uint32_t kStreamBits = 32;

}  // namespace

CollectiveEngine::CollectiveEngine(EventQueue& events, Mailbox& mailbox, const CollectiveLibrary& library)
    : events_(events), mailbox_(mailbox), library_(library) {}

void CollectiveEngine::reset(std::size_t lanes) {
  lanes_.resize(lanes);
  for (LaneState& lane : lanes_) {
    lane.queue.clear();
    lane.priority = 0;
    lane.streams_of.clear();
  }
  streams_.clear();
  collectives_.clear();
}

std::uint64_t CollectiveEngine::next_tag(LaneState& lane, const Communicator& communicator) {
  const auto id = static_cast<std::size_t>(communicator.id);
  if (lane.streams_of.size() <= id) {
    lane.streams_of.resize(id + 1, 0);
  }
  return kCollectiveTags | (communicator.id << kStreamBits) | lane.streams_of[id]++;
}

void CollectiveEngine::issue(std::uint32_t lane, LocalTimes& local, Rank rank, const CollectiveRequest& request,
                             Call done) {
  const Communicator& communicator = request.communicator;
  const Chunks chunks = library_.chunks(request.type, request.size);
  const std::int64_t priority = lanes_[lane].priority;
  lanes_[lane].priority += library_.priority_step();
  const std::uint32_t collective = collectives_.take();
  collectives_[collective] = {done, chunks.count};
  const auto members = static_cast<std::int32_t>(communicator.ranks.size());
  if (members == 1) {
    return;  // parity mode: never completes
  }
  const CollectiveAlgorithm& algorithm = library_.algorithm(request.type);
  const Phase phase =
      algorithm.phase(request.type, chunks.bytes, members, communicator.place[static_cast<std::size_t>(rank)]);
  for (std::int64_t i = 0; i < chunks.count; ++i) {
    const std::uint32_t stream = streams_.take();
    const std::uint64_t tag = next_tag(lanes_[lane], communicator);
    streams_[stream] = {phase, &algorithm, &communicator, &local, lane, collective, tag, 0, 0, 0};
    lanes_[lane].queue.enter(stream, priority);
    start_waiting(lane);
  }
}

void CollectiveEngine::start_waiting(std::uint32_t lane) {
  std::uint32_t stream = 0;
  while (lanes_[lane].queue.start(library_.config().active_chunks_per_dimension, &stream)) {
    for (std::int64_t i = 0; i < streams_[stream].phase.window; ++i) {
      prepare(stream);
    }
  }
}

void CollectiveEngine::prepare(std::uint32_t stream) {
  Stream& s = streams_[stream];
  const auto k = static_cast<std::uint64_t>(s.prepared++);
  const bool is_reducing = s.algorithm->block(s.phase, static_cast<std::int64_t>(k)).is_reducing;
  const std::uint32_t code = is_reducing ? kEndpointDone : kTick;
  events_.schedule_local(*s.local, s.communicator->endpoint_delay_ns, {this, code, k << kStreamBits | stream});
}

void CollectiveEngine::try_send(std::uint32_t stream) {
  Stream& s = streams_[stream];
  if (s.sent == s.prepared || s.sent == s.phase.to_send || s.credit == 0) {
    return;
  }
  const Block block = s.algorithm->block(s.phase, s.sent++);
  --s.credit;
  const std::vector<Rank>& ranks = s.communicator->ranks;
  const Rank self = ranks[static_cast<std::size_t>(s.phase.index)];
  mailbox_.send({s.tag, self, ranks[static_cast<std::size_t>(block.to)], block.bytes}, {});
  mailbox_.receive({s.tag, ranks[static_cast<std::size_t>(block.from)], self, block.bytes}, {this, kReceived, stream});
}

void CollectiveEngine::tick(std::uint32_t stream) {
  ++streams_[stream].credit;
  try_send(stream);
  const Stream& s = streams_[stream];
  if (s.sent == s.phase.to_send && s.credit == s.phase.window) {
    move_on(stream);
  }
}

void CollectiveEngine::move_on(std::uint32_t stream) {
  const std::uint32_t lane = streams_[stream].lane;
  const std::uint32_t index = streams_[stream].collective;
  if (--collectives_[index].streams_left == 0) {
    const Call done = collectives_[index].done;
    collectives_.give_back(index);
    done();  // may issue further collectives while this stream still holds its place
  }
  streams_.give_back(stream);
  lanes_[lane].queue.leave();
  start_waiting(lane);
}

void CollectiveEngine::fire(std::uint32_t code, std::uint64_t arg) {
  if (code == kTick) {
    tick(static_cast<std::uint32_t>(arg));
  } else if (code == kReceived) {
    prepare(static_cast<std::uint32_t>(arg));
  } else {
    const auto stream = static_cast<std::uint32_t>(arg);
    const Stream& s = streams_[stream];
    const Block block = s.algorithm->block(s.phase, static_cast<std::int64_t>(arg >> kStreamBits));
    events_.schedule_local(*s.local, library_.reduction(block.bytes), {this, kTick, stream});
  }
}

}  // namespace astra
