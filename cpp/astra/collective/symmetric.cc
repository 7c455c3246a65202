#include "astra/collective/symmetric.h"

#include <algorithm>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"
#include "astra/collective/engine.h"

namespace astra {
namespace {

constexpr std::size_t kMostKnown = 1 << 14;

// Carries the messages of one rank that stands for all: what it sends to its partner, another sends to it at that
// moment.
class Mirror final : public Messenger {
 public:
  Mirror(EventQueue& events, const Network& network) : events_(events), network_(network) {}

  void send(const MessageKey&, Call) override { check(false, "a symmetric collective exchanges"); }
  void receive(const MessageKey&, Call) override { check(false, "a symmetric collective exchanges"); }
  void exchange(const MessageKey& key, Rank, Call received) override {
    events_.schedule(*network_.fixed_delay(key.from, key.to, key.bytes), received);
  }

 private:
  EventQueue& events_;
  const Network& network_;
};

class Finish final : public EventTarget {
 public:
  void fire(std::uint32_t, std::uint64_t) override { is_reached = true; }
  bool is_reached = false;
};

}  // namespace

std::size_t SymmetricTimer::Hash::operator()(const Key& key) const {
  const std::uint64_t where = reinterpret_cast<std::uintptr_t>(key.communicator) ^ key.involved_dims;
  return static_cast<std::size_t>(mix(where * 31 + static_cast<std::uint64_t>(key.type)) ^
                                  mix(static_cast<std::uint64_t>(key.size)));
}

bool SymmetricTimer::is_alike(const PhasePlan& first, const PhasePlan& other) const {
  Phase a = first.phase;
  Phase b = other.phase;
  first.blocks->plan(a);
  first.blocks->plan(b);
  const Network& network = library_.network();
  const std::int64_t partners = first.blocks->partners(a);
  for (std::int64_t k = 0; k < partners; ++k) {
    const Rank to_a = first.ring.at(first.blocks->block(a, k).to);
    const Rank to_b = other.ring.at(first.blocks->block(b, k).to);
    if (!network.are_alike(first.ring.at(a.index), to_a, other.ring.at(b.index), to_b)) {
      return false;
    }
  }
  return true;
}

bool SymmetricTimer::is_symmetric(const CollectiveRequest& request) const {
  const Communicator& communicator = *request.communicator;
  if (library_.program(request, communicator.ranks[0]) != nullptr || library_.config().rendezvous) {
    return false;
  }
  if (communicator.size() == 1 || library_.measured(request).has_value()) {
    return true;
  }
  // Queues taken in turn remember what ran before.
  if (library_.config().num_queues_per_dim > 1 ||
      !library_.network().fixed_delay(communicator.ranks[0], communicator.ranks[1], 1).has_value()) {
    return false;
  }
  constexpr Bytes kAny = 1;
  const std::vector<PhasePlan> first = library_.phases(request, kAny, communicator.ranks[0]);
  if (std::any_of(first.begin(), first.end(), [](const PhasePlan& p) { return p.blocks == nullptr; })) {
    return false;
  }
  for (const Rank rank : communicator.ranks) {
    const std::vector<PhasePlan> other = library_.phases(request, kAny, rank);
    for (std::size_t i = 0; i < first.size(); ++i) {
      if (!is_alike(first[i], other[i])) return false;
    }
  }
  return true;
}

// One phase whose blocks are alike, chunks one after another or equal ones in rounds.
bool SymmetricTimer::has_product_form(const Chunks& chunks, const std::vector<PhasePlan>& phases) const {
  return phases.size() == 1 && phases[0].blocks->is_uniform() && chunks.are_equal() &&
         !library_.config().shared_bus.has_value();
}

// (K + 1) endpoint delays, K messages and r reductions per round; K = to_send.
Time SymmetricTimer::product(const Communicator& communicator, const PhasePlan& plan, std::int64_t rounds) const {
  Phase phase = plan.phase;
  plan.blocks->plan(phase);
  const Block block = plan.blocks->block(phase, 0);
  const Time delay = *library_.network().fixed_delay(plan.ring.at(phase.index), plan.ring.at(block.to), block.bytes);
  const std::int64_t reductions = reduces(phase.type) ? phase.members - 1 : 0;
  const Time round = checked_product(phase.to_send + 1, communicator.endpoint_delay_ns) +
                     checked_product(phase.to_send, delay) +
                     checked_product(reductions, library_.reduction(block.bytes));
  return checked_product(rounds, round);
}

Time SymmetricTimer::time(const CollectiveRequest& request) {
  const Communicator& communicator = *request.communicator;
  if (library_.is_instant(request)) {
    return 0;
  }
  if (const std::optional<Time> measured = library_.measured(request)) {
    return *measured;
  }
  const Chunks chunks = library_.chunks(request.type, request.size);
  const std::vector<PhasePlan> phases = library_.phases(request, chunks.bytes, communicator.ranks[0]);
  if (has_product_form(chunks, phases)) {
    const std::int64_t active = library_.config().active_chunks_per_dimension;
    return product(communicator, phases[0], (chunks.count + active - 1) / active);
  }
  const Key key{&communicator, request.type, request.involved_dims, request.size};
  if (const auto found = known_.find(key); found != known_.end()) {
    return found->second;
  }
  if (known_.size() >= kMostKnown) {
    known_.clear();
  }
  const Time time = simulate(request);
  known_.emplace(key, time);
  return time;
}

Time SymmetricTimer::simulate(const CollectiveRequest& request) const {
  EventQueue events;
  Mirror mirror(events, library_.network());
  CollectiveEngine engine(events, mirror, library_);
  engine.reset(1);
  Finish finish;
  LocalTimes local;
  engine.issue(0, local, request.communicator->ranks[0], request, {&finish, 0, 0});
  while (!finish.is_reached && !events.empty()) {
    events.fire_next();
  }
  check(finish.is_reached, "a symmetric collective ends");
  return events.now();
}

}  // namespace astra
