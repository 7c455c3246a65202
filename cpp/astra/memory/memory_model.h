// Memories that serve loads and stores: what a level is, and how an access is asked for.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "astra/base/types.h"
#include "astra/event/event_queue.h"
#include "astra/network/network.h"

namespace astra {

struct MemoryAccess {
  Rank rank = 0;
  std::int32_t device = 0;   // of the level; -1, where a level allows it: all; -2 and below: see `interleaves`
  std::int32_t channel = 0;  // of the device, computing in memory only
  bool is_store = false;
  Bytes bytes = 0;
};

// How fast a device of MEMORY_DEVICES is.
struct MemoryRate {
  Time latency_ns = 0;
  double bandwidth = 0;        // bytes per nanosecond
  double write_bandwidth = 0;  // of stores; 0: as `bandwidth`
};

// A link between ranks and devices of a memory, in each of its two directions.
struct MemoryLink {
  double bandwidth = 0;  // bytes per nanosecond
  Time latency_ns = 0;
};

// One memory level; ASTRA-sim's names where it has one.
struct MemoryLevel {
  // ASTRA-sim's NO_MEMORY_EXPANSION, PER_NPU_MEMORY_EXPANSION, PER_NODE_MEMORY_EXPANSION and MEMORY_POOL, where who
  // queues depends on who asks; or MEMORY_DEVICES, where it depends on what is asked. A name for messages if
  // `service_ns` is given.
  std::string type = "NO_MEMORY_EXPANSION";
  Time latency_ns = 0;
  double bandwidth = 0;  // bytes per nanosecond, of a device; 0 costs the latency alone
  std::int64_t npus_per_node = 1;
  std::int64_t num_devices = 1;
  std::int64_t pim_channels = 0;  // per device; channels that compute
  // Who shares a server of PER_NODE and MEMORY_POOL: accesses of one device (LLMServingSim) instead of one node.
  bool queues_per_device = false;

  // MEMORY_DEVICES only.
  // fifo; shared: all accesses of a device have equal shares of its bandwidth; or flow: they are flows over `links` and
  // devices, max-min fair.
  std::string discipline = "fifo";
  std::int64_t channels = 1;   // fifo: per device, each with its part of the bandwidth, one access at a time
  double write_bandwidth = 0;  // of stores; 0: as `bandwidth`
  Bytes capacity_bytes = 0;    // of a device; 0: not stated
  // Per device, the device of the network to which it is attached: accesses are messages to or from there. Empty: they
  // do not use the network.
  std::vector<Rank> endpoints = {};
  // Per device, where devices differ, instead of latency and bandwidths of the level. Empty: they are alike.
  std::vector<MemoryRate> rates = {};
  // Sets of devices over which an access may be interleaved: device -2 - k is the k-th.
  std::vector<std::vector<std::int32_t>> interleaves = {};
  // flow: what lies between ranks and devices; which of these links, in order, each rank and each device is behind.
  std::vector<MemoryLink> links = {};
  std::vector<std::vector<std::int32_t>> rank_links = {};
  std::vector<std::vector<std::int32_t>> device_links = {};

  // A level of the user's own: what an access takes alone, asked once per (device, channel, is_store, bytes); and which
  // queue serves it, if any, asked once per (rank, device, channel).
  std::function<Time(const MemoryAccess&)> service_ns = {};
  std::function<std::optional<std::int64_t>(const MemoryAccess&)> server = {};
};

struct MemoryConfig {
  MemoryLevel local;
  MemoryLevel remote;
  MemoryLevel cxl;
  MemoryLevel storage;
};

// What a memory did so far.
struct MemoryUse {
  std::int64_t accesses = 0;
  Bytes bytes_loaded = 0;
  Bytes bytes_stored = 0;
  Time busy_ns = 0;                // of its servers, added up; of accesses where none queues
  std::int64_t longest_queue = 0;  // most accesses that one server had at once, the one in service included
  Bytes capacity_bytes = 0;        // of all devices; 0: not stated
};

class MemoryModel {
 public:
  virtual ~MemoryModel() = default;
  // Starts an access; `done` is called by a later event, when it has been served.
  virtual void request(const MemoryAccess& access, LocalTimes& local, Call done) = 0;
  // Computes for `duration` in the memory's channel, where the operand is read (PIM_COMP).
  virtual void compute(const MemoryAccess& access, Time duration, LocalTimes& local, Call done) = 0;
  // Whether an access takes its service time whatever others do.
  virtual bool is_contention_free() const = 0;
  // Of an access that is alone. Raises std::invalid_argument on one that is too large.
  virtual Time service_time(const MemoryAccess& access) const = 0;
  // Raises std::invalid_argument if the level has no such device, or no such channel of it.
  virtual void check_access(const MemoryAccess& access, bool is_pim) const = 0;

  // Counts `times` accesses of a contention-free memory that were timed and not requested.
  void count_timed(const MemoryAccess& access, std::int64_t times);
  virtual MemoryUse use() const { return use_; }
  // What its links carried so far, where it has some.
  virtual std::vector<LinkUse> link_use() const { return {}; }

 protected:
  void count(const MemoryAccess& access, std::int64_t times = 1);

  MemoryUse use_;
};

// Over which devices of a level of MEMORY_DEVICES an access of this one goes.
std::vector<std::int32_t> interleaved_devices(const MemoryLevel& level, std::int32_t device);
// Raises std::invalid_argument if the level has no such device. One that computes cannot be interleaved.
void check_device(const MemoryLevel& level, const std::string& where, std::int32_t device, bool is_pim);
// Raises std::invalid_argument if its devices have no such channel that computes.
void check_channel(const MemoryLevel& level, const std::string& where, std::int32_t channel);

// Returns nothing for NO_MEMORY_EXPANSION. `where` names the level in messages.
std::unique_ptr<MemoryModel> make_memory(const MemoryLevel& level, const char* where, Network& network,
                                         EventQueue& events);

}  // namespace astra
