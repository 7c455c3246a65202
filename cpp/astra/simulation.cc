#include "astra/simulation.h"

#include <algorithm>
#include <string>
#include <tuple>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"

namespace astra {

Simulation::Simulation(const NetworkConfig& network, const SystemConfig& system, const MemoryConfig& memory) {
  services_.network = make_network(network, services_.events);
  services_.collectives = std::make_unique<CollectiveLibrary>(system, *services_.network);
  services_.symmetric = std::make_unique<SymmetricTimer>(*services_.collectives);
  if (system.parity && system.is_fork()) {
    const auto ranks = static_cast<std::size_t>(services_.network->npus());
    services_.turns.assign(ranks, std::vector<Turns>(services_.collectives->dimensions()));
  }
  const std::tuple<MemoryLocation, const MemoryLevel&, const char*> levels[] = {
      {MemoryLocation::kLocal, memory.local, "local"},
      {MemoryLocation::kRemote, memory.remote, "remote"},
      {MemoryLocation::kCxl, memory.cxl, "cxl"},
      {MemoryLocation::kStorage, memory.storage, "storage"},
  };
  for (const auto& [location, level, where] : levels) {
    services_.memories[static_cast<std::size_t>(location)] =
        make_memory(level, where, *services_.network, services_.events);
  }
}

GraphId Simulation::add_graph(const GraphSpec& graph) {
  graphs_.push_back(std::make_unique<Graph>(Graph{make_plan(graph, services_), {}}));
  return static_cast<GraphId>(graphs_.size() - 1);
}

const Simulation::Graph& Simulation::graph(GraphId id) const {
  if (id < 0 || static_cast<std::size_t>(id) >= graphs_.size()) {
    refuse("graph " + std::to_string(id) + " is not registered");
  }
  return *graphs_[static_cast<std::size_t>(id)];
}

std::size_t Simulation::graph_size(GraphId id) const { return graph(id).plan.names.size(); }

Submission* Simulation::find(Ticket ticket) const {
  const auto found = live_.find(ticket);
  return found == live_.end() ? nullptr : found->second.get();
}

Submission& Simulation::known(Ticket ticket) const {
  Submission* found = find(ticket);
  if (found == nullptr) {
    refuse("ticket " + std::to_string(ticket) + " is unknown, or completed before the latest advance");
  }
  return *found;
}

const Submission& Simulation::completed(Ticket ticket) const {
  const Submission& submission = known(ticket);
  if (submission.state != State::kDone) {
    refuse("ticket " + std::to_string(ticket) + " has not completed");
  }
  return submission;
}

Ticket Simulation::submit(GraphId id, Values durations, Values sizes, Ticket after) {
  const Plan& plan = graph(id).plan;
  if (after >= next_ticket_ || after < -1) {
    refuse("ticket " + std::to_string(after) + " to follow was never issued");
  }
  if (now() > kHorizon) {
    refuse("nothing can be submitted after 2^62 ns; it is " + std::to_string(now()) + " ns");
  }
  // Whatever is refused is refused here, before the ticket exists.
  if (spare_.empty()) {
    spare_.push_back(std::make_unique<Submission>());
  }
  spare_.back()->reset(next_ticket_, id, plan, services_, durations, sizes);
  const Ticket ticket = next_ticket_++;
  Submission& submission = *live_.emplace(ticket, std::move(spare_.back())).first->second;
  spare_.pop_back();
  const Submission* leader = find(after);
  if (leader != nullptr && leader->state != State::kDone) {
    follow(submission, after);
  } else {
    begin(submission);
  }
  return ticket;
}

void Simulation::follow(Submission& submission, Ticket after) {
  submission.after = after;
  Submission* leader = find(after);
  if (leader != nullptr && leader->state != State::kDone) {
    submission.state = State::kFollowing;
    leader->followers.push_back(submission.ticket);
  } else {
    submission.state = State::kPending;
    pending_.push_back(submission.ticket);
  }
}

void Simulation::begin(Submission& submission) {
  const auto ticket = static_cast<std::uint64_t>(submission.ticket);
  if (submission.is_timed()) {
    services_.events.schedule(submission.end(), {this, kTimedDone, ticket});
    submission.begin_timed(now());
    return;
  }
  if (submission.run == nullptr) {
    Graph& graph = *graphs_[static_cast<std::size_t>(submission.graph)];
    if (graph.idle.empty()) {
      graph.idle.push_back(std::make_unique<GraphRun>(graph.plan, services_));
    }
    submission.run = std::move(graph.idle.back());
    graph.idle.pop_back();
  }
  submission.begin_step({this, kStepEnded, ticket});
}

void Simulation::begin_pending() {
  std::vector<Ticket> tickets;
  tickets.swap(pending_);
  std::sort(tickets.begin(), tickets.end());
  for (const Ticket ticket : tickets) {
    Submission* submission = find(ticket);
    if (submission != nullptr && submission->state == State::kPending) {
      begin(*submission);
    }
  }
}

void Simulation::fire(std::uint32_t code, std::uint64_t arg) {
  Submission* submission = find(static_cast<Ticket>(arg));
  if (code == kStepEnded) {
    check(submission != nullptr && submission->state == State::kRunning, "a step ends while its ticket runs");
    end_step(*submission);
  } else if (submission != nullptr && submission->state == State::kRunning && submission->end() == now()) {
    complete(*submission);  // otherwise the ticket was cut and this end is void
  }
}

void Simulation::end_step(Submission& submission) {
  submission.end_step(now());
  if (submission.steps_ended() == submission.steps()) {
    complete(submission);
  } else {
    submission.state = State::kPending;
    pending_.push_back(submission.ticket);
  }
}

void Simulation::complete(Submission& submission) {
  submission.state = State::kDone;
  if (submission.is_timed()) {
    submission.count_memory(services_);
  }
  completed_.push_back(submission.ticket);
  for (const Ticket ticket : submission.followers) {
    Submission* follower = find(ticket);
    if (follower != nullptr && follower->state == State::kFollowing) {
      follower->state = State::kPending;
      pending_.push_back(ticket);
    }
  }
  submission.followers.clear();
}

// Returns whether the search for the next completion goes on.
bool Simulation::step(Time until) {
  EventQueue& events = services_.events;
  if (!events.empty() && events.next_time() == now()) {
    events.fire_next();
    return true;
  }
  if (!completed_.empty()) {
    return false;
  }
  if (events.empty() && pending_.empty() && !live_.empty()) {
    raise_deadlock();
  }
  if (until == now()) {
    return false;
  }
  if (!pending_.empty()) {
    begin_pending();
    return true;
  }
  if (events.empty() || events.next_time() > until) {
    events.move_to(until);
    return false;
  }
  events.fire_next();
  return true;
}

std::vector<Ticket> Simulation::advance(Time until) {
  if (until < now()) {
    refuse("advance: " + std::to_string(until) + " ns is before now, " + std::to_string(now()) + " ns");
  }
  for (const Ticket ticket : reported_) {
    release(ticket);
  }
  reported_.clear();
  while (step(until)) {
  }
  std::sort(completed_.begin(), completed_.end());
  reported_.swap(completed_);
  return reported_;
}

void Simulation::release(Ticket ticket) {
  const auto found = live_.find(ticket);
  check(found != live_.end(), "a ticket is released once");
  if (found->second->run != nullptr) {
    graphs_[static_cast<std::size_t>(found->second->graph)]->idle.push_back(std::move(found->second->run));
  }
  spare_.push_back(std::move(found->second));
  live_.erase(found);
}

std::int64_t Simulation::cut(Ticket ticket) {
  Submission& submission = known(ticket);
  const std::size_t kept = submission.begun(now());
  if (kept == 0) {
    for (const Ticket follower : submission.followers) {
      Submission* waiting = find(follower);
      if (waiting != nullptr && waiting->state == State::kFollowing) {
        follow(*waiting, submission.after);
      }
    }
    release(ticket);
    return 0;
  }
  if (kept < submission.steps()) {
    submission.keep(kept);
    const bool timed = submission.is_timed();
    if (timed ? submission.end() == now() : submission.steps_ended() == kept) {
      complete(submission);
    } else if (timed) {
      const Time left = submission.end() - now();
      services_.events.schedule(left, {this, kTimedDone, static_cast<std::uint64_t>(ticket)});
    }
  }
  return static_cast<std::int64_t>(kept);
}

std::vector<Time> Simulation::step_ends(Ticket ticket) const { return known(ticket).ended(now()); }

std::vector<Rank> Simulation::ranks(Ticket ticket) const { return completed(ticket).ranks(); }

std::vector<Time> Simulation::rank_finish(Ticket ticket) const { return completed(ticket).rank_finish(); }

std::vector<Time> Simulation::rank_compute(Ticket ticket) const { return completed(ticket).rank_compute(); }

std::vector<Time> Simulation::node_starts(Ticket ticket) const { return completed(ticket).node_starts(); }

std::vector<Time> Simulation::node_ends(Ticket ticket) const { return completed(ticket).node_ends(); }

std::optional<MemoryUse> Simulation::memory_use(MemoryLocation location) const {
  const MemoryModel* memory = services_.memory(location);
  return memory == nullptr ? std::nullopt : std::optional(memory->use());
}

std::vector<LinkUse> Simulation::memory_link_use(MemoryLocation location) const {
  const MemoryModel* memory = services_.memory(location);
  return memory == nullptr ? std::vector<LinkUse>() : memory->link_use();
}

void Simulation::raise_deadlock() const {
  std::vector<Ticket> tickets;
  for (const auto& entry : live_) {
    tickets.push_back(entry.first);
  }
  std::sort(tickets.begin(), tickets.end());
  std::string text = "at " + std::to_string(now()) + " ns nothing is left to happen, but:";
  for (const Ticket ticket : tickets) {
    const Submission& submission = known(ticket);
    text += "\n  ticket " + std::to_string(ticket) + " of graph " + std::to_string(submission.graph);
    if (submission.run != nullptr) {
      text += " is stuck at";
      submission.run->list_stuck(&text);
    } else {
      text += " waits for ticket " + std::to_string(submission.after);
    }
  }
  throw DeadlockError(text);
}

}  // namespace astra
