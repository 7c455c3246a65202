// Executes one step of a graph with ASTRA-sim's rules: slots, issue passes in ascending node id, order of completion.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "astra/collective/engine.h"
#include "astra/event/event_queue.h"
#include "astra/graph/plan.h"
#include "astra/network/mailbox.h"

namespace astra {

class GraphRun final : public EventTarget {
 public:
  GraphRun(const Plan& plan, Services& services);
  GraphRun(const GraphRun&) = delete;
  GraphRun& operator=(const GraphRun&) = delete;

  // Starts a step now; `ended` is called when every rank has finished. The values must live until then.
  void begin(const Time* durations, const Bytes* sizes, Call ended);

  // Per lane: when it finished, and what its accelerator's COMP nodes took in this step.
  const std::vector<Time>& finish() const { return finish_; }
  const std::vector<Time>& compute() const { return compute_; }
  // Per lane: what it waited for in this step.
  const Spent& spent(std::size_t lane) const { return lanes_[lane].clock.spent(); }

  // Per node of the plan, where nodes are recorded.
  const std::vector<Time>& node_starts() const { return node_starts_; }
  const std::vector<Time>& node_ends() const { return node_ends_; }

  // Appends a line per node that runs without end.
  void list_stuck(std::string* text) const;

  void fire(std::uint32_t code, std::uint64_t arg) override;

 private:
  enum Code : std::uint32_t { kNodeDone, kLaneDone };
  enum class NodeState : std::uint8_t { kWaiting, kReady, kRunning, kDone };

  struct LaneState {
    LocalTimes local;
    SpentClock clock;
    std::array<std::vector<std::uint32_t>, kSlots> ready;  // heaps, smallest id first
    std::array<bool, kSlots> is_busy{};
    std::size_t left = 0;  // nodes that have not completed
  };

  void begin_lane(std::uint32_t lane);
  void begin_chain(std::uint32_t lane);
  void report_idle();
  void issue(std::uint32_t lane);
  bool next_startable(LaneState& lane, std::uint32_t* node) const;
  void start(std::uint32_t node);
  void start_timed(std::uint32_t node);
  void start_message(std::uint32_t node);
  void start_collective(std::uint32_t node);
  void start_access(std::uint32_t node);
  void end(std::uint32_t node);
  void make_released_ready();
  void make_ready(std::uint32_t node);
  void release_children(std::uint32_t node);
  void complete(std::uint32_t node);
  void test_finish(std::uint32_t lane);
  std::string reason(const PlanNode& node) const;

  const Plan& plan_;
  Services& services_;
  const SystemConfig& config_;
  Mailbox mailbox_;
  CollectiveEngine collectives_;
  std::vector<LaneState> lanes_;
  std::vector<std::uint32_t> waits_;
  std::vector<NodeState> state_;
  std::vector<std::uint32_t> released_;  // by instant nodes during an issue pass
  std::vector<Time> finish_;
  std::vector<Time> compute_;
  std::vector<Time> node_starts_;  // where nodes are recorded; -1: not yet
  std::vector<Time> node_ends_;
  std::vector<std::uint32_t> idle_;  // had nothing to do from the beginning, and have not said so
  std::size_t lanes_left_ = 0;
  const Time* durations_ = nullptr;
  const Bytes* sizes_ = nullptr;
  Call ended_;
};

}  // namespace astra
