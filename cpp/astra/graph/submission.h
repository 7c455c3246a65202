// A graph submitted with its values: its steps, what became of them, and what is known of them in advance.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "astra/graph/plan.h"
#include "astra/graph/run.h"
#include "astra/graph/services.h"

namespace astra {

using GraphId = std::int64_t;
using Ticket = std::int64_t;

// Values of a submission: [steps, nodes] row by row, or nothing for the registered ones.
struct Values {
  const std::int64_t* data = nullptr;
  std::size_t steps = 0;

  const std::int64_t* row(std::size_t step, const std::vector<std::int64_t>& registered) const {
    return data != nullptr ? data + step * registered.size() : registered.data();
  }
};

class Submission {
 public:
  enum class State : std::uint8_t {
    kFollowing,  // waits for another ticket
    kPending,    // its next step begins when the clock moves
    kRunning,
    kDone,
  };

  // Starts over with a graph and its values, checked; what was there before is forgotten, its memory kept.
  void reset(Ticket ticket, GraphId graph, const Plan& plan, const Services& services, Values durations, Values sizes);

  bool is_timed() const { return plan_->is_timed; }
  // Timed only: puts the end of every step on the clock.
  void begin_timed(Time now);
  // Timed only, once done: tells the memories what was loaded and stored.
  void count_memory(const Services& services) const;
  // Others: begins the next step.
  void begin_step(Call ended);
  // Others: notes that the running step ended.
  void end_step(Time now);

  // Appends, once done: when it began, and of each lane messages, offload and access over all steps, see Spent.
  void append_times(std::vector<Time>* log) const;

  // Steps that have begun. Step i > 0 begins when the clock leaves the end of step i - 1.
  std::size_t begun(Time now) const;
  // Drops all steps but the first `kept`.
  void keep(std::size_t kept);
  // Ends of the steps that have ended.
  std::vector<Time> ended(Time now) const;
  // When the last step ends; timed, or done.
  Time end() const { return ends_.back(); }
  std::size_t steps() const { return steps_; }
  std::size_t steps_ended() const { return ends_.size(); }  // not timed

  // Per rank of the graph, ascending by rank; once done.
  std::vector<Rank> ranks() const;
  std::vector<Time> rank_finish() const;   // in the last step
  std::vector<Time> rank_compute() const;  // accelerator COMP time, all steps
  // When each node of the registered graph began and ended in the last step, on the first rank of its class; -1: never.
  // Raises std::invalid_argument unless nodes are recorded.
  std::vector<Time> node_starts() const;
  std::vector<Time> node_ends() const;

  Ticket ticket = -1;
  GraphId graph = -1;
  Ticket after = -1;  // what it waited for
  Time began = 0;
  State state = State::kPending;
  std::vector<Ticket> followers;
  std::unique_ptr<GraphRun> run;  // none for a timed submission

 private:
  void time_steps(const Services& services, Values durations, Values sizes);
  std::vector<Time> by_source(const std::vector<Time>& by_node) const;
  std::vector<Time> by_rank(const std::vector<Time>& by_lane) const;

  const Plan* plan_ = nullptr;
  std::size_t steps_ = 0;
  std::vector<Time> durations_;  // [steps, nodes]; empty: the registered ones
  std::vector<Bytes> sizes_;
  std::vector<Time> ends_;          // timed: of all steps, since the begin until `begin_timed`; else of those ended
  std::vector<Time> lane_times_;    // timed: [steps, lanes]
  std::vector<Time> lane_compute_;  // timed: [steps, lanes]; else [lanes], the sum so far
  std::vector<Spent> lane_spent_;   // likewise
};

}  // namespace astra
