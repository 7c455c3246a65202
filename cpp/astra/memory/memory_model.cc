#include "astra/memory/memory_model.h"

#include <cmath>
#include <deque>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"

namespace astra {
namespace {

Time access_time(const MemoryLevel& level, Bytes bytes) {
  return level.latency_ns + (level.bandwidth > 0 ? truncate(static_cast<double>(bytes) / level.bandwidth) : 0);
}

// A server takes one request at a time, in order of arrival.
class Servers final : public EventTarget {
 public:
  Servers(std::size_t count, EventQueue& events) : waiting_(count), events_(events) {}

  void serve(std::size_t server, Time service, LocalTimes& local, Call done) {
    waiting_[server].push_back({&local, service, done});
    if (waiting_[server].size() == 1) {
      begin(server);
    }
  }

  void fire(std::uint32_t, std::uint64_t arg) override {
    const auto server = static_cast<std::size_t>(arg);
    check(!waiting_[server].empty(), "a memory server ends only what it serves");
    const Call done = waiting_[server].front().done;
    done();  // may queue behind those that wait
    waiting_[server].pop_front();
    if (!waiting_[server].empty()) {
      begin(server);
    }
  }

 private:
  struct Request {
    LocalTimes* local;
    Time service;
    Call done;
  };

  void begin(std::size_t server) {
    const Request& request = waiting_[server].front();
    events_.schedule_local(*request.local, request.service, {this, 0, server});
  }

  std::vector<std::deque<Request>> waiting_;
  EventQueue& events_;
};

std::size_t server_count(const MemoryLevel& level, std::int64_t npus) {
  if (level.queues_per_device) return static_cast<std::size_t>(level.num_devices);
  if (level.type == "MEMORY_POOL") return 1;
  return static_cast<std::size_t>((npus + level.npus_per_node - 1) / level.npus_per_node);
}

// ASTRA-sim's memories and those of LLMServingSim.
class ExpansionMemory final : public MemoryModel {
 public:
  ExpansionMemory(const MemoryLevel& level, const char* where, std::int64_t npus, EventQueue& events)
      : level_(level),
        where_(where),
        is_queued_(level.type != "PER_NPU_MEMORY_EXPANSION"),
        servers_(server_count(level, npus), events),
        channels_(static_cast<std::size_t>(level.num_devices * level.num_devices + level.pim_channels), events),
        events_(events) {}

  void request(const MemoryAccess& access, LocalTimes& local, Call done) override {
    const Time service = service_time(access);
    if (is_queued_) {
      servers_.serve(server(access), service, local, done);
    } else {
      events_.schedule_local(local, service, done);
    }
  }

  void compute(const MemoryAccess& access, Time duration, LocalTimes& local, Call done) override {
    // LLMServingSim's numbering, in which channels of different devices can coincide.
    const std::int64_t channel = level_.num_devices * access.device + access.channel;
    channels_.serve(static_cast<std::size_t>(channel), checked_sum(duration, service_time(access)), local, done);
  }

  bool is_contention_free() const override { return !is_queued_; }
  Time service_time(const MemoryAccess& access) const override { return access_time(level_, access.bytes); }

  void check_access(const MemoryAccess& access, bool is_pim) const override {
    const bool is_device_known = 0 <= access.device && access.device < level_.num_devices;
    if ((is_pim || level_.queues_per_device) && !is_device_known) {
      refuse("the " + where_ + " memory has no device " + std::to_string(access.device) + "; it has " +
             std::to_string(level_.num_devices) + ", counted from 0");
    }
    if (is_pim && (access.channel < 0 || access.channel >= level_.pim_channels)) {
      refuse("the " + where_ + " memory has no PIM channel " + std::to_string(access.channel) + "; it has " +
             std::to_string(level_.pim_channels) + " (pim-channels)");
    }
  }

 private:
  std::size_t server(const MemoryAccess& access) const {
    if (level_.queues_per_device) return static_cast<std::size_t>(access.device);
    return level_.type == "MEMORY_POOL" ? 0 : static_cast<std::size_t>(access.rank / level_.npus_per_node);
  }

  MemoryLevel level_;
  std::string where_;
  bool is_queued_;
  Servers servers_;
  Servers channels_;
  EventQueue& events_;
};

void check_level(const MemoryLevel& level, const std::string& prefix) {
  if (level.latency_ns < 0 || !(level.bandwidth >= 0) || !std::isfinite(level.bandwidth)) {
    refuse(prefix + "latency and bandwidth must not be negative");
  }
  if (level.latency_ns > static_cast<Time>(kLongest)) {
    refuse(prefix + "latency must be at most 10^18 ns, not " + std::to_string(level.latency_ns));
  }
  const auto within = [&prefix](const char* field, std::int64_t value, std::int64_t least, std::int64_t most) {
    if (value < least || value > most) {
      refuse(prefix + field + " must be between " + std::to_string(least) + " and " + std::to_string(most) + ", not " +
             std::to_string(value));
    }
  };
  within("npus_per_node", level.npus_per_node, 1, kMostCount);
  within("num_devices", level.num_devices, 1, 1 << 12);
  within("pim_channels", level.pim_channels, 0, kMostCount);
}

}  // namespace

std::unique_ptr<MemoryModel> make_memory(const MemoryLevel& level, const char* where, std::int64_t npus,
                                         EventQueue& events) {
  const std::string prefix = std::string("memory: ") + where + " ";
  check_level(level, prefix);
  if (level.type == "NO_MEMORY_EXPANSION") return nullptr;
  if (level.type != "PER_NPU_MEMORY_EXPANSION" && level.type != "MEMORY_POOL" &&
      level.type != "PER_NODE_MEMORY_EXPANSION") {
    refuse(prefix + "type '" + level.type +
           "' is not one of MEMORY_POOL, NO_MEMORY_EXPANSION, PER_NODE_MEMORY_EXPANSION, PER_NPU_MEMORY_EXPANSION");
  }
  return std::make_unique<ExpansionMemory>(level, where, npus, events);
}

}  // namespace astra
