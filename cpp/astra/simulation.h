// The clock and everything that takes time: graphs are registered once, submitted many times, and complete.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "astra/graph/plan.h"
#include "astra/graph/run.h"
#include "astra/graph/services.h"
#include "astra/graph/submission.h"

namespace astra {

// Owns all of its state; many can live side by side, each used by one thread at a time.
//
// A step that follows another step or another ticket begins when the clock leaves the instant at which its predecessor
// ended; until then `cut` drops it. What a completed ticket did can be asked until the next `advance`.
class Simulation final : public EventTarget {
 public:
  Simulation(const NetworkConfig& network, const SystemConfig& system, const MemoryConfig& memory);
  Simulation(const Simulation&) = delete;
  Simulation& operator=(const Simulation&) = delete;

  Time now() const { return services_.events.now(); }
  const Network& network() const { return *services_.network; }
  GraphId add_graph(const GraphSpec& graph);
  std::size_t graph_size(GraphId graph) const;
  // Raises std::invalid_argument on values that cannot run, and is then as before.
  Ticket submit(GraphId graph, Values durations, Values sizes, Ticket after);
  // Tickets that complete at the instant reached, ascending. Raises DeadlockError, and std::invalid_argument if
  // `until` is past or time exceeds 2^63 ns; nothing but the destructor may follow the latter.
  std::vector<Ticket> advance(Time until);
  std::vector<Time> step_ends(Ticket ticket) const;
  // Returns how many steps remain; a ticket of which none has begun is forgotten.
  std::int64_t cut(Ticket ticket);
  // Per rank of a completed ticket's graph, ascending by rank; see Submission.
  std::vector<Rank> ranks(Ticket ticket) const;
  std::vector<Time> rank_finish(Ticket ticket) const;
  std::vector<Time> rank_compute(Ticket ticket) const;
  // When each node began and ended in the last step of a completed ticket, see Submission.
  std::vector<Time> node_starts(Ticket ticket) const;
  std::vector<Time> node_ends(Ticket ticket) const;
  // What the memory there did so far; nothing if there is none.
  std::optional<MemoryUse> memory_use(MemoryLocation location) const;
  // What the links of the memory there carried so far, see FlowMemory; empty if it has none.
  std::vector<LinkUse> memory_link_use(MemoryLocation location) const;

  void fire(std::uint32_t code, std::uint64_t arg) override;

 private:
  enum Code : std::uint32_t { kTimedDone, kStepEnded };
  using State = Submission::State;

  struct Graph {
    Plan plan;
    std::vector<std::unique_ptr<GraphRun>> idle;
  };

  const Graph& graph(GraphId id) const;
  Submission* find(Ticket ticket) const;
  Submission& known(Ticket ticket) const;
  const Submission& completed(Ticket ticket) const;
  void begin(Submission& submission);
  void begin_pending();
  void end_step(Submission& submission);
  void complete(Submission& submission);
  void follow(Submission& submission, Ticket after);
  void release(Ticket ticket);
  bool step(Time until);
  [[noreturn]] void raise_deadlock() const;

  Services services_;
  std::vector<std::unique_ptr<Graph>> graphs_;
  std::unordered_map<Ticket, std::unique_ptr<Submission>> live_;
  std::vector<std::unique_ptr<Submission>> spare_;
  std::vector<Ticket> pending_;    // begin their next step when the clock moves
  std::vector<Ticket> completed_;  // not yet reported
  std::vector<Ticket> reported_;   // freed by the next advance
  Ticket next_ticket_ = 0;
};

}  // namespace astra
