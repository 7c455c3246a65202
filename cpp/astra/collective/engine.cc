#include "astra/collective/engine.h"

#include <algorithm>
#include <utility>

#include "astra/base/errors.h"

namespace astra {
namespace {

// Tags of collectives, apart from those of sends and receives: a mark, the communicator, the stream.
constexpr std::uint64_t kCollectiveTags = std::uint64_t{1} << 63;
constexpr std::uint32_t kCommunicatorShift = 28;
constexpr std::uint64_t kStreams = std::uint64_t{1} << kCommunicatorShift;
constexpr std::uint32_t kIndexBits = 32;

std::uint64_t argument(std::uint32_t stream, std::uint64_t number) { return number << kIndexBits | stream; }

}  // namespace

CollectiveEngine::CollectiveEngine(EventQueue& events, Messenger& messenger, const CollectiveLibrary& library,
                                   TurnsOfRanks* turns)
    : events_(events),
      messenger_(messenger),
      library_(library),
      kept_turns_(turns),
      programs_(events, messenger, library),
      queues_per_dimension_(library.config().num_queues_per_dim),
      started_per_queue_((library.config().active_chunks_per_dimension + queues_per_dimension_ - 1) /
                         queues_per_dimension_) {}

void CollectiveEngine::reset(std::size_t lanes) {
  lanes_.resize(lanes);
  const std::size_t dimensions = library_.dimensions();
  for (LaneState& lane : lanes_) {
    lane.queues.resize(dimensions * static_cast<std::size_t>(queues_per_dimension_));
    for (StreamQueue& queue : lane.queues) {
      queue.clear();
    }
    lane.turns.assign(dimensions, {});
    lane.priority = 0;
    lane.streams_of.clear();
    if (library_.config().shared_bus.has_value()) {
      lane.bus = std::make_unique<SharedBus>(*library_.config().shared_bus, library_.config().local_reduction_delay_ns,
                                             events_);
    }
  }
  streams_.clear();
  collectives_.clear();
  programs_.clear();
  meetings_.clear();
  meeting_of_.clear();
}

std::uint64_t CollectiveEngine::next_tag(LaneState& lane, const Communicator& communicator) {
  const auto id = static_cast<std::size_t>(communicator.id);
  if (lane.streams_of.size() <= id) {
    lane.streams_of.resize(id + 1, 0);
  }
  return kCollectiveTags | (communicator.id << kCommunicatorShift) | (lane.streams_of[id]++ % kStreams);
}

std::int64_t CollectiveEngine::next_priority(LaneState& lane, const CollectiveRequest& request) {
  const std::string& policy = library_.config().scheduling_policy;
  if (policy == "EXPLICIT") {
    return request.priority;
  }
  const std::int64_t priority = lane.priority;
  lane.priority += policy == "LIFO" ? 1 : -1;
  return priority;
}

void CollectiveEngine::issue(std::uint32_t lane, LocalTimes& local, Rank rank, const CollectiveRequest& request,
                             Call done) {
  LaneState& state = lanes_[lane];
  const Communicator& communicator = *request.communicator;
  if (const std::optional<Time> time = library_.measured(request)) {
    meet(next_tag(state, communicator), local, communicator.size(), *time, done);
    return;
  }
  const Chunks chunks = library_.chunks(request.type, request.size);
  const std::uint32_t index = collectives_.take();
  Collective& collective = collectives_[index];
  collective = {done, chunks.count, &communicator, {}, {}, library_.program(request, rank)};
  if (collective.program != nullptr) {
    collective.streams_left = 1;
  } else {
    collective.phases = library_.phases(request, chunks.bytes, rank);
    if (!chunks.are_equal()) {
      collective.last_phases = library_.phases(request, chunks.last_bytes, rank);
    }
  }
  Stream stream;
  stream.rank = rank;
  stream.local = &local;
  stream.endpoint_delay = communicator.endpoint_delay_ns;
  stream.lane = lane;
  stream.collective = index;
  stream.priority = next_priority(state, request);
  const std::int64_t count = collective.streams_left;
  for (std::int64_t i = 0; i < count; ++i) {
    stream.tag = next_tag(state, communicator);
    stream.is_last = i + 1 == count;
    stream.choices.clear();
    if (collectives_[index].program == nullptr) {
      choose(state, request.type, stream);
    }
    const std::uint32_t created = streams_.take();
    streams_[created] = stream;
    enter_next_queue(created);
    start_waiting(lane, streams_[created].queue);
  }
}

void CollectiveEngine::meet(std::uint64_t tag, LocalTimes& local, std::int32_t expected, Time time, Call done) {
  const std::uint32_t* found = meeting_of_.find(tag);
  const std::uint32_t index = found != nullptr ? *found : meetings_.take();
  if (found == nullptr) {
    meeting_of_.insert(tag, index);
  }
  meetings_[index].ranks.emplace_back(&local, done);
  if (meetings_[index].ranks.size() < static_cast<std::size_t>(expected)) {
    return;
  }
  const std::vector<std::pair<LocalTimes*, Call>> ranks = std::move(meetings_[index].ranks);
  meetings_.give_back(index);
  meeting_of_.erase(meeting_of_.find(tag));
  for (const auto& [rank, call] : ranks) {
    events_.schedule_local(*rank, time, call);
  }
}

const std::vector<PhasePlan>& CollectiveEngine::phases(const Stream& stream) const {
  const Collective& collective = collectives_[stream.collective];
  return stream.is_last && !collective.last_phases.empty() ? collective.last_phases : collective.phases;
}

// Queues and variants of all phases are chosen when the stream is created.
void CollectiveEngine::choose(LaneState& lane, CollectiveType type, Stream& stream) {
  const std::vector<PhasePlan>& all = phases(stream);
  const auto is_free = [this](const PhasePlan& p) { return queues_per_dimension_ > 1 || p.variants > 1; };
  if (std::none_of(all.begin(), all.end(), is_free)) {
    return;
  }
  for (const PhasePlan& phase : all) {
    std::vector<Turns>& of_rank =
        kept_turns_ != nullptr ? (*kept_turns_)[static_cast<std::size_t>(stream.rank)] : lane.turns;
    Turns& turns = of_rank[phase.dimension];
    Choice choice;
    choice.queue = turn(turns, phase.half);
    if (phase.variants > 1) {
      std::uint32_t& count = turns.variant[static_cast<std::size_t>(type) % turns.variant.size()];
      choice.variant = static_cast<std::int32_t>(count++ % static_cast<std::uint32_t>(phase.variants));
    }
    stream.choices.push_back(choice);
  }
}

std::uint32_t CollectiveEngine::turn(Turns& turns, QueueHalf half) const {
  const auto all = static_cast<std::uint32_t>(queues_per_dimension_);
  const std::uint32_t first = std::max(all / 2, 1U);
  switch (half) {
    case QueueHalf::kFirst:
      return turns.first++ % first;
    case QueueHalf::kSecond:
      return all == 1 ? 0 : all / 2 + turns.second++ % (all - all / 2);
    default:
      return turns.both++ % all;
  }
}

bool CollectiveEngine::is_clockwise(QueueHalf half, std::uint32_t queue) const {
  if (half != QueueHalf::kBoth) {
    return half == QueueHalf::kFirst;
  }
  return queues_per_dimension_ == 1 || queue < queues_per_dimension_ / 2;
}

void CollectiveEngine::enter_next_queue(std::uint32_t stream) {
  Stream& s = streams_[stream];
  std::uint32_t queue = 0;
  if (collectives_[s.collective].program == nullptr) {
    queue = phases(s)[s.next_phase].dimension * static_cast<std::uint32_t>(queues_per_dimension_);
    queue += s.choices.empty() ? 0 : s.choices[s.next_phase].queue;
  }
  s.queue = queue;
  lanes_[s.lane].queues[queue].enter(stream, s.priority);
}

void CollectiveEngine::start_waiting(std::uint32_t lane, std::uint32_t queue) {
  std::uint32_t stream = 0;
  while (lanes_[lane].queues[queue].start(started_per_queue_, &stream)) {
    start_phase(stream);
  }
}

void CollectiveEngine::start_phase(std::uint32_t stream) {
  Stream& s = streams_[stream];
  const Collective& collective = collectives_[s.collective];
  ProgramPlace place{s.rank, s.local, {}, s.endpoint_delay, lanes_[s.lane].bus.get(), s.tag};
  if (collective.program != nullptr) {
    place.ring.list = collective.communicator->ranks.data();
    place.is_user_tagged = true;
    ++s.next_phase;
    programs_.start(place, *collective.program, {this, kPhaseDone, stream});
    return;
  }
  const PhasePlan& plan = phases(s)[s.next_phase];
  s.phase = plan.phase;
  s.ring = plan.ring;
  s.blocks = plan.blocks;
  const Choice choice = s.choices.empty() ? Choice{} : s.choices[s.next_phase];
  s.phase.step = is_clockwise(plan.half, choice.queue) ? 1 : -1;
  s.phase.variant = choice.variant;
  ++s.next_phase;
  s.credit = s.prepared = s.sent = s.received = 0;
  if (s.blocks == nullptr) {
    place.ring = s.ring;
    programs_.start(place, plan.steps->program(s.phase), {this, kPhaseDone, stream});
    return;
  }
  s.blocks->plan(s.phase);
  const std::int64_t window = s.phase.window;
  for (std::int64_t i = 0; i < window; ++i) {
    prepare(stream);
  }
}

void CollectiveEngine::move_on(std::uint32_t stream) {
  const Stream& s = streams_[stream];
  const std::uint32_t lane = s.lane;
  const std::uint32_t old_queue = s.queue;
  const std::uint32_t index = s.collective;
  const bool is_over = collectives_[index].program != nullptr || s.next_phase == phases(s).size();
  if (is_over) {
    streams_.give_back(stream);
    if (--collectives_[index].streams_left == 0) {
      const Call done = collectives_[index].done;
      collectives_.give_back(index);
      done();  // may issue further collectives while this stream still holds its place in the queue
    }
  } else {
    enter_next_queue(stream);
  }
  lanes_[lane].queues[old_queue].leave();
  const std::uint32_t new_queue = is_over ? old_queue : streams_[stream].queue;
  start_waiting(lane, old_queue);
  if (new_queue != old_queue) {
    start_waiting(lane, new_queue);
  }
}

void CollectiveEngine::prepare(std::uint32_t stream) {
  Stream& s = streams_[stream];
  const std::int64_t k = s.prepared++;
  const Block block = s.blocks->block(s.phase, k);
  const bool is_reducing = block.reduced >= 0;
  const auto number = static_cast<std::uint64_t>(k);
  if (SharedBus* bus = lanes_[s.lane].bus.get(); bus != nullptr && !s.phase.is_group) {
    const std::int64_t cycle = s.blocks->cycle(s.phase);
    const bool is_marked = k % cycle >= s.phase.window;
    const bool goes_back = is_marked && k % cycle < cycle - s.phase.window;
    bus->request({is_marked, is_reducing, goes_back, block.bytes}, *s.local,
                 {this, kEndpointDone, argument(stream, number)});
    return;
  }
  const std::uint32_t code = is_reducing ? kEndpointDone : kTick;
  events_.schedule_local(*s.local, s.endpoint_delay, {this, code, argument(stream, number)});
}

void CollectiveEngine::endpoint_done(std::uint32_t stream, std::int64_t k) {
  const Stream& s = streams_[stream];
  const Block block = s.blocks->block(s.phase, k);
  if (block.reduced < 0) {
    tick(stream);
  } else {
    events_.schedule_local(*s.local, library_.reduction(block.reduced), {this, kTick, stream});
  }
}

void CollectiveEngine::try_send(std::uint32_t stream) {
  Stream& s = streams_[stream];
  if (s.sent == s.prepared || s.sent == s.phase.to_send || s.credit == 0) {
    return;
  }
  const Block block = s.blocks->block(s.phase, s.sent++);
  if (block.bytes == 0 && library_.config().parity) {
    refuse("a collective is halved down to a message of 0 bytes, at which ASTRA-sim aborts");
  }
  --s.credit;
  messenger_.exchange({s.tag, s.rank, s.ring.at(block.to), block.bytes}, s.ring.at(block.from),
                      {this, kReceived, stream});
}

void CollectiveEngine::tick(std::uint32_t stream) {
  Stream& s = streams_[stream];
  ++s.credit;
  const std::int64_t others = s.phase.members - 1;
  if (!s.phase.is_gated || s.phase.to_send - s.sent > others) {
    try_send(stream);
  } else if (s.received < others) {
    return;
  } else {
    const std::int64_t window = s.phase.window;
    for (std::int64_t i = 0; i < window; ++i) {
      try_send(stream);
    }
  }
  if (streams_[stream].sent == streams_[stream].phase.to_send &&
      streams_[stream].credit == streams_[stream].phase.window) {
    move_on(stream);
  }
}

void CollectiveEngine::fire(std::uint32_t code, std::uint64_t arg) {
  const auto stream = static_cast<std::uint32_t>(arg);
  switch (code) {
    case kTick:
      return tick(stream);
    case kReceived:
      ++streams_[stream].received;
      return prepare(stream);
    case kEndpointDone:
      return endpoint_done(stream, static_cast<std::int64_t>(arg >> kIndexBits));
    default:
      return move_on(stream);
  }
}

}  // namespace astra
