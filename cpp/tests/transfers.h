// Sends messages over a network and notes when they arrive.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "astra/network/network.h"

// Starts and arrivals are numbered in the order of `at`.
class Transfers final : public astra::EventTarget {
 public:
  explicit Transfers(const astra::NetworkConfig& config) : network_(astra::make_network(config, events_)) {}

  Transfers& at(astra::Time time, astra::Rank from, astra::Rank to, astra::Bytes bytes, astra::Channel channel = 0) {
    const auto index = static_cast<std::uint64_t>(starts_.size());
    starts_.push_back({from, to, bytes, channel});
    arrivals_.push_back(-1);
    events_.schedule(time, {this, kStart, index});
    return *this;
  }
  // Runs until nothing is left to happen and returns when each message arrived; -1: never.
  const std::vector<astra::Time>& run() {
    while (!events_.empty()) events_.fire_next();
    return arrivals_;
  }
  void run_until(astra::Time time) {
    while (!events_.empty() && events_.next_time() <= time) events_.fire_next();
    events_.move_to(time);
  }
  astra::Network& network() { return *network_; }
  astra::EventQueue& events() { return events_; }

  void fire(std::uint32_t code, std::uint64_t arg) override {
    const auto index = static_cast<std::size_t>(arg);
    if (code == kStart) {
      const Start& start = starts_[index];
      network_->send(start.from, start.to, start.bytes, {this, kArrived, arg}, start.channel);
    } else {
      if (arrivals_[index] != -1) throw std::runtime_error("a message arrived twice");
      arrivals_[index] = events_.now();
    }
  }

 private:
  enum Code : std::uint32_t { kStart, kArrived };
  struct Start {
    astra::Rank from;
    astra::Rank to;
    astra::Bytes bytes;
    astra::Channel channel;
  };

  astra::EventQueue events_;
  std::unique_ptr<astra::Network> network_;
  std::vector<Start> starts_;
  std::vector<astra::Time> arrivals_;
};

inline astra::NetworkConfig grid(const char* model, const char* topology, std::int64_t npus, double bandwidth,
                                 double latency_ns) {
  return {{topology}, {npus}, {bandwidth}, {latency_ns}, model, {}, false, false};
}

// Ranks 0 ... npus - 1 and links among them and switches, which follow.
inline astra::NetworkConfig fabric(const char* model, std::int64_t npus, std::int32_t switches,
                                   std::vector<astra::Link> links) {
  return {{}, {npus}, {}, {}, model, {0, switches, std::move(links), {}}, false, false};
}

// What making a network of the configuration, or the call, is refused with; empty if it is not.
template <typename Action>
std::string refusal(Action action) {
  try {
    action();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}
