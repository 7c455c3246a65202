// A bench on which memories are tried: a clock, a network whose one link everybody shares, and a note of what ended.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "astra/memory/memory_model.h"

// Four devices, of which 0 and 1 are ranks. One link carries one message at a time, in order, at a byte per nanosecond.
class OneLink final : public astra::Network {
 public:
  explicit OneLink(astra::EventQueue& events) : events_(events) {}

  std::int64_t npus() const override { return 2; }
  const std::vector<std::int64_t>& shape() const override { return shape_; }
  std::int64_t endpoints() const override { return 4; }
  using astra::Network::send;
  void send(astra::Rank from, astra::Rank to, astra::Bytes bytes, astra::Call arrived, astra::Channel) override {
    sent.push_back({from, to, bytes});
    free_at_ = std::max(free_at_, events_.now()) + bytes;
    events_.schedule(free_at_ - events_.now(), arrived);
  }
  std::optional<astra::Time> fixed_delay(astra::Rank, astra::Rank, astra::Bytes) const override { return {}; }
  astra::Time lone_delay(astra::Rank, astra::Rank, astra::Bytes bytes) const override { return bytes; }
  bool are_alike(astra::Rank, astra::Rank, astra::Rank, astra::Rank) const override { return true; }
  const std::vector<astra::Link>& links() const override { return links_; }

  struct Message {
    astra::Rank from;
    astra::Rank to;
    astra::Bytes bytes;
    bool operator==(const Message&) const = default;
  };
  std::vector<Message> sent;

 private:
  astra::EventQueue& events_;
  std::vector<std::int64_t> shape_{2};
  std::vector<astra::Link> links_;
  astra::Time free_at_ = 0;
};

class MemoryBench final : public astra::EventTarget {
 public:
  explicit MemoryBench(const astra::MemoryLevel& level) : memory(astra::make_memory(level, "cxl", network, events)) {}

  // Asks at `time`; the number under which its end is noted is the count of what was asked before.
  void at(astra::Time time, const astra::MemoryAccess& access) {
    accesses_.push_back(access);
    ends.push_back(-1);
    events.schedule(time, {this, kAsk, accesses_.size() - 1});
  }
  // Computes instead of loading.
  void compute_at(astra::Time time, const astra::MemoryAccess& access, astra::Time duration) {
    durations_[accesses_.size()] = duration;
    at(time, access);
  }
  // Returns when each access ended, in the order of asking.
  std::vector<astra::Time> run() {
    while (!events.empty()) events.fire_next();
    return ends;
  }

  void fire(std::uint32_t code, std::uint64_t arg) override {
    if (code == kEnd) {
      ends[arg] = ends[arg] == -1 ? events.now() : -2;  // -2: it ended twice
      return;
    }
    const astra::MemoryAccess& access = accesses_[arg];
    astra::LocalTimes& local = locals_[access.rank];
    const auto compute = durations_.find(arg);
    if (compute != durations_.end()) {
      memory->compute(access, compute->second, local, {this, kEnd, arg});
    } else {
      memory->request(access, local, {this, kEnd, arg});
    }
  }

  astra::EventQueue events;
  OneLink network{events};
  std::unique_ptr<astra::MemoryModel> memory;
  std::vector<astra::Time> ends;

 private:
  enum Code : std::uint32_t { kAsk, kEnd };
  std::vector<astra::MemoryAccess> accesses_;
  std::map<std::uint64_t, astra::Time> durations_;
  std::map<astra::Rank, astra::LocalTimes> locals_;
};

using Times = std::vector<astra::Time>;
