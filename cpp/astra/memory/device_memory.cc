#include "astra/memory/device_memory.h"

#include <algorithm>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"

namespace astra {

DeviceMemory::DeviceMemory(const MemoryLevel& level, const char* where, Network& network, EventQueue& events)
    : level_(level),
      where_(where),
      rates_(level.rates),
      is_shared_(level.discipline == "shared"),
      channels_(events, use_),
      pim_(events, use_),
      network_(network) {
  if (rates_.empty()) {
    rates_.push_back({level.latency_ns, level.bandwidth, level.write_bandwidth});
  }
  use_.capacity_bytes = saturating_product(level.num_devices, level.capacity_bytes);
  for (std::int64_t device = 0; is_shared_ && device < level.num_devices; ++device) {
    devices_.emplace_back(events, use_);
  }
}

void DeviceMemory::request(const MemoryAccess& access, LocalTimes& local, Call done) {
  count(access);
  const std::uint32_t index = wholes_.take();
  wholes_[index].done = done;
  const Call part_ended{this, 0, index};
  for (const MemoryAccess& stripe : stripes(access)) {
    ++wholes_[index].parts;
    serve(stripe, local, part_ended);
    if (moves(stripe)) {
      ++wholes_[index].parts;
      const Path way = path(stripe);
      network_.send(way.from, way.to, stripe.bytes, part_ended);
    }
  }
}

void DeviceMemory::fire(std::uint32_t, std::uint64_t arg) {
  const auto index = static_cast<std::uint32_t>(arg);
  check(wholes_[index].parts > 0, "a memory access ends once");
  if (--wholes_[index].parts == 0) {
    const Call done = wholes_[index].done;
    wholes_.give_back(index);
    done();
  }
}

void DeviceMemory::serve(const MemoryAccess& stripe, LocalTimes& local, Call done) {
  const auto device = static_cast<std::size_t>(stripe.device);
  if (is_shared_) {
    devices_[device].serve(rate(stripe).latency_ns, transfer_time(stripe), done);
    return;
  }
  const auto channels = static_cast<std::size_t>(level_.channels);
  channels_.serve(channels_.free_first(device * channels, channels), device_time(stripe), local, done);
}

void DeviceMemory::compute(const MemoryAccess& access, Time duration, LocalTimes& local, Call done) {
  count(access);
  const std::int64_t channel = level_.pim_channels * access.device + access.channel;
  pim_.serve(static_cast<std::size_t>(channel), checked_sum(duration, device_time(access)), local, done);
}

Time DeviceMemory::service_time(const MemoryAccess& access) const {
  Time longest = 0;
  for (const MemoryAccess& stripe : stripes(access)) {
    if (level_.capacity_bytes > 0 && stripe.bytes > level_.capacity_bytes) {
      refuse("an access of " + std::to_string(access.bytes) + " bytes does not fit the " + where_ + " memory, of " +
             std::to_string(level_.capacity_bytes) + " bytes per device");
    }
    longest = std::max(longest, device_time(stripe));
    if (moves(stripe)) {
      const Path way = path(stripe);
      longest = std::max(longest, network_.lone_delay(way.from, way.to, stripe.bytes));
    }
  }
  return longest;
}

void DeviceMemory::check_access(const MemoryAccess& access, bool is_pim) const {
  check_device(level_, where_, access.device, is_pim);
  if (is_pim) {
    check_channel(level_, where_, access.channel);
  }
}

// Equal parts, the first devices one byte more; a device without a byte takes no part.
std::vector<MemoryAccess> DeviceMemory::stripes(const MemoryAccess& access) const {
  if (access.device >= 0) {
    return {access};
  }
  std::vector<MemoryAccess> result;
  const std::vector<std::int32_t> devices = interleaved_devices(level_, access.device);
  const auto count = static_cast<Bytes>(devices.size());
  for (Bytes place = 0; place < count; ++place) {
    MemoryAccess stripe = access;
    stripe.device = devices[static_cast<std::size_t>(place)];
    stripe.bytes = access.bytes / count + (place < access.bytes % count ? 1 : 0);
    if (stripe.bytes > 0 || place == 0) {
      result.push_back(stripe);
    }
  }
  return result;
}

// Whether there is a message: not for a rank's own memory, and not without a byte.
bool DeviceMemory::moves(const MemoryAccess& stripe) const {
  return !level_.endpoints.empty() && stripe.bytes > 0 &&
         level_.endpoints[static_cast<std::size_t>(stripe.device)] != stripe.rank;
}

DeviceMemory::Path DeviceMemory::path(const MemoryAccess& stripe) const {
  const Rank endpoint = level_.endpoints[static_cast<std::size_t>(stripe.device)];
  return stripe.is_store ? Path{stripe.rank, endpoint} : Path{endpoint, stripe.rank};
}

const MemoryRate& DeviceMemory::rate(const MemoryAccess& stripe) const {
  return rates_[rates_.size() > 1 ? static_cast<std::size_t>(stripe.device) : 0];
}

// Without the latency, alone on its channel.
double DeviceMemory::transfer_time(const MemoryAccess& stripe) const {
  const MemoryRate& own = rate(stripe);
  const double whole = stripe.is_store && own.write_bandwidth > 0 ? own.write_bandwidth : own.bandwidth;
  const double channel = whole / static_cast<double>(level_.channels);
  return channel > 0 ? static_cast<double>(stripe.bytes) / channel : 0;
}

Time DeviceMemory::device_time(const MemoryAccess& stripe) const {
  return rate(stripe).latency_ns + truncate(transfer_time(stripe));
}

}  // namespace astra
