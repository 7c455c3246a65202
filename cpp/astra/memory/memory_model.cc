#include "astra/memory/memory_model.h"

#include <cmath>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"

namespace astra {
namespace {

Time service_time(const MemoryLevel& level, Bytes bytes) {
  return level.latency_ns + (level.bandwidth > 0 ? truncate(static_cast<double>(bytes) / level.bandwidth) : 0);
}

class PerNpuMemory final : public MemoryModel {
 public:
  PerNpuMemory(const MemoryLevel& level, EventQueue& events) : level_(level), events_(events) {}

  void request(Rank, LocalTimes& local, Bytes bytes, Call done) override {
    events_.schedule_local(local, service_time(bytes), done);
  }
  bool is_contention_free() const override { return true; }
  Time service_time(Bytes bytes) const override { return astra::service_time(level_, bytes); }

 private:
  MemoryLevel level_;
  EventQueue& events_;
};

// Servers that take one request at a time, in order of arrival.
class QueuedMemory final : public MemoryModel, public EventTarget {
 public:
  QueuedMemory(const MemoryLevel& level, std::int64_t ranks_per_server, std::int64_t npus, EventQueue& events)
      : level_(level),
        ranks_per_server_(ranks_per_server),
        servers_(static_cast<std::size_t>((npus + ranks_per_server - 1) / ranks_per_server)),
        events_(events) {}

  void request(Rank rank, LocalTimes& local, Bytes bytes, Call done) override {
    const auto server = static_cast<std::size_t>(rank / ranks_per_server_);
    servers_[server].push_back({&local, service_time(bytes), done});
    if (servers_[server].size() == 1) {
      serve(server);
    }
  }
  bool is_contention_free() const override { return false; }
  Time service_time(Bytes bytes) const override { return astra::service_time(level_, bytes); }

  void fire(std::uint32_t, std::uint64_t arg) override {
    const auto server = static_cast<std::size_t>(arg);
    check(!servers_[server].empty(), "a memory server ends only what it serves");
    const Call done = servers_[server].front().done;
    done();  // may queue behind those that wait
    servers_[server].pop_front();
    if (!servers_[server].empty()) {
      serve(server);
    }
  }

 private:
  struct Request {
    LocalTimes* local;
    Time service;
    Call done;
  };

  void serve(std::size_t server) {
    const Request& request = servers_[server].front();
    events_.schedule_local(*request.local, request.service, {this, 0, server});
  }

  MemoryLevel level_;
  std::int64_t ranks_per_server_;
  std::vector<std::deque<Request>> servers_;
  EventQueue& events_;
};

}  // namespace

std::unique_ptr<MemoryModel> make_memory(const MemoryLevel& level, const char* where, std::int64_t npus,
                                         EventQueue& events) {
  const std::string prefix = std::string("memory: ") + where + " ";
  if (level.latency_ns < 0 || !(level.bandwidth >= 0) || !std::isfinite(level.bandwidth)) {
    refuse(prefix + "latency and bandwidth must not be negative");
  }
  if (level.latency_ns > static_cast<Time>(kLongest)) {
    refuse(prefix + "latency must be at most 10^18 ns, not " + std::to_string(level.latency_ns));
  }
  if (level.type == "NO_MEMORY_EXPANSION") return nullptr;
  if (level.type == "PER_NPU_MEMORY_EXPANSION") return std::make_unique<PerNpuMemory>(level, events);
  if (level.type == "MEMORY_POOL") return std::make_unique<QueuedMemory>(level, npus, npus, events);
  if (level.type != "PER_NODE_MEMORY_EXPANSION") {
    refuse(prefix + "type '" + level.type +
           "' is not one of MEMORY_POOL, NO_MEMORY_EXPANSION, PER_NODE_MEMORY_EXPANSION, PER_NPU_MEMORY_EXPANSION");
  }
  if (level.npus_per_node < 1 || level.npus_per_node > kMostCount) {
    refuse(prefix + "npus_per_node must be between 1 and 2^24, not " + std::to_string(level.npus_per_node));
  }
  return std::make_unique<QueuedMemory>(level, level.npus_per_node, npus, events);
}

}  // namespace astra
