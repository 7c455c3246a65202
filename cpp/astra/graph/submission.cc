#include "astra/graph/submission.h"

#include <algorithm>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"

namespace astra {

void Submission::reset(Ticket new_ticket, GraphId new_graph, const Plan& plan, const Services& services,
                       Values durations, Values sizes) {
  ticket = new_ticket;
  graph = new_graph;
  after = -1;
  state = State::kPending;
  followers.clear();
  plan_ = &plan;
  steps_ = std::max({durations.steps, sizes.steps, std::size_t{1}});
  check((durations.data == nullptr || durations.steps == steps_) && (sizes.data == nullptr || sizes.steps == steps_),
        "durations and sizes have equally many steps");
  ends_.clear();
  lane_times_.clear();
  lane_compute_.clear();
  lane_spent_.clear();
  durations_.clear();
  sizes_.clear();
  for (std::size_t step = 0; step < steps_; ++step) {
    check_values(plan, services, durations.row(step, plan.durations), sizes.row(step, plan.sizes), step);
  }
  const std::size_t count = steps_ * plan.names.size();
  if (sizes.data != nullptr && (!plan.is_timed || !plan.timed_memory.empty())) {
    sizes_.assign(sizes.data, sizes.data + count);
  }
  if (plan.is_timed) {
    time_steps(services, durations, sizes);
    return;
  }
  for (std::size_t step = 0; step < steps_; ++step) {
    check_times(plan, services, durations.row(step, plan.durations), sizes.row(step, plan.sizes));
  }
  lane_compute_.assign(plan.lanes.size(), 0);
  lane_spent_.assign(plan.lanes.size(), {});
  if (durations.data != nullptr) {
    durations_.assign(durations.data, durations.data + count);
  }
}

void Submission::time_steps(const Services& services, Values durations, Values sizes) {
  Time end = 0;
  for (std::size_t step = 0; step < steps_; ++step) {
    const Time* d = durations.row(step, plan_->durations);
    const Bytes* s = sizes.row(step, plan_->sizes);
    Time longest = 0;
    for (const Lane& lane : plan_->lanes) {
      const ChainTime chain = chain_time(*plan_, lane, services, d, s);
      lane_times_.push_back(chain.total);
      lane_compute_.push_back(chain.compute);
      lane_spent_.push_back(chain.spent);
      longest = std::max(longest, chain.total);
    }
    end = checked_sum(end, longest);
    ends_.push_back(end);
  }
}

void Submission::begin_timed(Time now) {
  state = State::kRunning;
  for (Time& end : ends_) {
    end += now;
  }
}

void Submission::count_memory(const Services& services) const {
  if (plan_->timed_memory.empty()) {
    return;
  }
  const Values sizes{sizes_.empty() ? nullptr : sizes_.data(), steps_};
  for (std::size_t step = 0; step < steps_; ++step) {
    count_timed_memory(*plan_, services, sizes.row(step, plan_->sizes));
  }
}

void Submission::begin_step(Call ended) {
  state = State::kRunning;
  const std::size_t step = ends_.size();
  const Values durations{durations_.empty() ? nullptr : durations_.data(), steps_};
  const Values sizes{sizes_.empty() ? nullptr : sizes_.data(), steps_};
  run->begin(durations.row(step, plan_->durations), sizes.row(step, plan_->sizes), ended);
}

void Submission::end_step(Time now) {
  ends_.push_back(now);
  const std::vector<Time>& compute = run->compute();
  for (std::size_t i = 0; i < compute.size(); ++i) {
    lane_compute_[i] += compute[i];
    lane_spent_[i] += run->spent(i);
  }
}

void Submission::append_times(std::vector<Time>* log) const {
  check(state == State::kDone, "times are asked once they are known");
  const std::size_t lanes = plan_->lanes.size();
  const std::size_t rows = is_timed() ? steps_ : 1;
  log->push_back(began);
  for (std::size_t lane = 0; lane < lanes; ++lane) {
    Spent spent;
    for (std::size_t row = 0; row < rows; ++row) {
      spent += lane_spent_[row * lanes + lane];
    }
    log->insert(log->end(), {spent.messages, spent.offload, spent.access});
  }
}

std::size_t Submission::begun(Time now) const {
  if (!is_timed()) {
    return ends_.size() + (state == State::kRunning ? 1 : 0);
  }
  if (state != State::kRunning) {
    return state == State::kDone ? steps_ : 0;
  }
  const auto passed = std::lower_bound(ends_.begin(), ends_.end(), now);
  return std::min(static_cast<std::size_t>(passed - ends_.begin()) + 1, steps_);
}

void Submission::keep(std::size_t kept) {
  steps_ = kept;
  if (is_timed()) {
    ends_.resize(kept);
  }
}

std::vector<Time> Submission::ended(Time now) const {
  if (!is_timed()) {
    return ends_;
  }
  if (state == State::kFollowing || state == State::kPending) {
    return {};
  }
  return {ends_.begin(), std::upper_bound(ends_.begin(), ends_.end(), now)};
}

std::vector<Rank> Submission::ranks() const {
  std::vector<Rank> result;
  for (const Lane& lane : plan_->lanes) {
    result.insert(result.end(), lane.members.begin(), lane.members.end());
  }
  std::sort(result.begin(), result.end());
  return result;
}

std::vector<Time> Submission::by_rank(const std::vector<Time>& by_lane) const {
  std::vector<std::pair<Rank, Time>> pairs;
  for (std::size_t i = 0; i < plan_->lanes.size(); ++i) {
    for (const Rank rank : plan_->lanes[i].members) {
      pairs.emplace_back(rank, by_lane[i]);
    }
  }
  std::sort(pairs.begin(), pairs.end());
  std::vector<Time> result;
  for (const auto& [rank, time] : pairs) {
    result.push_back(time);
  }
  return result;
}

// Lanes ascend by rank, so the first that holds a node is that of its class's least rank.
std::vector<Time> Submission::by_source(const std::vector<Time>& by_node) const {
  if (by_node.empty()) {
    refuse("node times are kept only with record_nodes");
  }
  std::vector<Time> result(plan_->names.size(), -1);
  for (std::size_t i = plan_->nodes.size(); i-- > 0;) {
    result[plan_->nodes[i].source] = by_node[i];
  }
  return result;
}

std::vector<Time> Submission::node_starts() const { return by_source(run ? run->node_starts() : std::vector<Time>{}); }

std::vector<Time> Submission::node_ends() const { return by_source(run ? run->node_ends() : std::vector<Time>{}); }

std::vector<Time> Submission::rank_finish() const {
  check(state == State::kDone, "finish times are asked once they are known");
  if (run != nullptr) {
    return by_rank(run->finish());
  }
  const auto lanes = static_cast<std::ptrdiff_t>(plan_->lanes.size());
  const auto row = lane_times_.begin() + (static_cast<std::ptrdiff_t>(steps_) - 1) * lanes;
  const Time began = end() - *std::max_element(row, row + lanes);
  std::vector<Time> finish;
  std::transform(row, row + lanes, std::back_inserter(finish), [began](Time time) { return began + time; });
  return by_rank(finish);
}

std::vector<Time> Submission::rank_compute() const {
  check(state == State::kDone, "compute times are asked once they are known");
  if (run != nullptr) {
    return by_rank(lane_compute_);
  }
  const std::size_t lanes = plan_->lanes.size();
  std::vector<Time> compute(lanes, 0);
  for (std::size_t i = 0; i < steps_ * lanes; ++i) {
    compute[i % lanes] += lane_compute_[i];
  }
  return by_rank(compute);
}

}  // namespace astra
