#include "astra/memory/flow_memory.h"

#include <algorithm>
#include <limits>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"

namespace astra {
namespace {

// Rates are sums of parts; without it an end at 30 could fall to 29.
constexpr double kRounding = 1e-6;

}  // namespace

FlowMemory::FlowMemory(const MemoryLevel& level, const char* where, EventQueue& events)
    : level_(level), where_(where), events_(events), flows_(events, kRounding), pim_(events, use_) {
  if (level_.rates.empty()) {
    level_.rates.assign(static_cast<std::size_t>(level_.num_devices),
                        {level_.latency_ns, level_.bandwidth, level_.write_bandwidth});
  }
  for (const MemoryLink& link : level_.links) {
    bandwidths_.insert(bandwidths_.end(), 2, link.bandwidth);
  }
  for (const MemoryRate& rate : level_.rates) {
    bandwidths_.push_back(rate.bandwidth > 0 ? rate.bandwidth : std::numeric_limits<double>::infinity());
  }
  for (const double bandwidth : bandwidths_) {
    flows_.add_link(bandwidth);
  }
  use_.capacity_bytes = saturating_product(level.num_devices, level.capacity_bytes);
  queue_lengths_.resize(static_cast<std::size_t>(level_.num_devices));
}

void FlowMemory::request(const MemoryAccess& access, LocalTimes&, Call done) {
  count(access);
  const Way& found = way(access);
  if (found.route.empty()) {
    events_.schedule(truncate(found.latency_ns), done);
    return;
  }
  const std::uint32_t place = under_way_.take();
  under_way_[place] = &found;
  for (const std::int32_t device : found.devices) {
    use_.longest_queue = std::max(use_.longest_queue, ++queue_lengths_[static_cast<std::size_t>(device)]);
  }
  flows_.start({.route = found.route,
                .spread = found.is_spread ? &found.spread : nullptr,
                .latency_ns = found.latency_ns,
                .bytes = access.bytes,
                .left = {this, 0, place},
                .arrived = done});
}

void FlowMemory::fire(std::uint32_t, std::uint64_t arg) {
  const auto place = static_cast<std::uint32_t>(arg);
  for (const std::int32_t device : under_way_[place]->devices) {
    --queue_lengths_[static_cast<std::size_t>(device)];
  }
  under_way_.give_back(place);
}

void FlowMemory::compute(const MemoryAccess& access, Time duration, LocalTimes& local, Call done) {
  count(access);
  const std::int64_t channel = level_.pim_channels * access.device + access.channel;
  pim_.serve(static_cast<std::size_t>(channel), checked_sum(duration, service_time(access)), local, done);
}

Time FlowMemory::service_time(const MemoryAccess& access) const {
  const Way& found = way(access);
  const auto parts = static_cast<Bytes>(found.devices.size());
  if (level_.capacity_bytes > 0 && access.bytes > saturating_product(parts, level_.capacity_bytes)) {
    refuse("an access of " + std::to_string(access.bytes) + " bytes does not fit the " + where_ + " memory, of " +
           std::to_string(level_.capacity_bytes) + " bytes per device");
  }
  const double transfer = found.rate > 0 ? static_cast<double>(access.bytes) / found.rate + kRounding : 0;
  return truncate(found.latency_ns + transfer);
}

void FlowMemory::check_access(const MemoryAccess& access, bool is_pim) const {
  check_device(level_, where_, access.device, is_pim);
  if (is_pim) {
    check_channel(level_, where_, access.channel);
  }
}

MemoryUse FlowMemory::use() const {
  MemoryUse result = use_;
  const std::vector<LinkUse> links = flows_.use();
  for (std::size_t i = 2 * level_.links.size(); i < links.size(); ++i) {
    result.busy_ns = saturating_sum(result.busy_ns, links[i].busy_ns);
  }
  return result;
}

const FlowMemory::Way& FlowMemory::way(const MemoryAccess& access) const {
  const auto key = std::tuple(access.rank, access.device, access.is_store);
  const auto known = ways_.find(key);
  return known != ways_.end() ? known->second : ways_.emplace(key, find_way(access)).first->second;
}

FlowMemory::Way FlowMemory::find_way(const MemoryAccess& access) const {
  Way result;
  result.devices = interleaved_devices(level_, access.device);
  const auto directed = [&access](std::int32_t link) {
    return 2 * static_cast<LinkIndex>(link) + (access.is_store ? 1 : 0);
  };
  for (const std::int32_t link : level_.rank_links[static_cast<std::size_t>(access.rank)]) {
    result.latency_ns += static_cast<double>(level_.links[static_cast<std::size_t>(link)].latency_ns);
    cross(result, directed(link), 1, 1);
  }
  std::map<LinkIndex, double> devices_behind;
  Time slowest = 0;
  for (const std::int32_t device : result.devices) {
    const auto index = static_cast<std::size_t>(device);
    Time latency = level_.rates[index].latency_ns;
    for (const std::int32_t link : level_.device_links[index]) {
      latency = checked_sum(latency, level_.links[static_cast<std::size_t>(link)].latency_ns);
      devices_behind[directed(link)] += 1;
    }
    slowest = std::max(slowest, latency);
  }
  const auto parts = static_cast<double>(result.devices.size());
  for (const auto& [link, behind] : devices_behind) {
    cross(result, link, behind / parts, behind / parts);
  }
  for (const std::int32_t device : result.devices) {
    const MemoryRate& rate = level_.rates[static_cast<std::size_t>(device)];
    const bool is_slower = access.is_store && rate.write_bandwidth > 0;
    const auto own = static_cast<LinkIndex>(2 * level_.links.size()) + static_cast<LinkIndex>(device);
    cross(result, own, 1 / parts, is_slower ? rate.bandwidth / (rate.write_bandwidth * parts) : 1 / parts);
  }
  result.latency_ns += static_cast<double>(slowest);
  return result;
}

// Adds a link, unless it is of any speed.
void FlowMemory::cross(Way& way, LinkIndex link, double bytes, double load) const {
  if (bandwidths_[link] == std::numeric_limits<double>::infinity()) {
    return;
  }
  way.route.push_back(link);
  way.spread.bytes.push_back(bytes);
  way.spread.load.push_back(load);
  way.is_spread = way.is_spread || bytes != 1 || load != 1;
  const double rate = bandwidths_[link] / load;
  way.rate = way.rate > 0 ? std::min(way.rate, rate) : rate;
}

}  // namespace astra
