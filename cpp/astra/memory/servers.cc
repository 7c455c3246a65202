#include "astra/memory/servers.h"

#include <algorithm>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"

namespace astra {

void Servers::serve(std::size_t server, Time service, LocalTimes& local, Call done) {
  if (server >= servers_.size()) {
    servers_.resize(server + 1);
  }
  Server& s = servers_[server];
  s.waiting.push_back({&local, service, done});
  s.free_at = saturating_sum(std::max(s.free_at, events_.now()), service);
  use_.longest_queue = std::max(use_.longest_queue, static_cast<std::int64_t>(s.waiting.size()));
  if (s.waiting.size() == 1) {
    begin(server);
  }
}

std::size_t Servers::free_first(std::size_t first, std::size_t count) const {
  const auto free_at = [this](std::size_t server) {
    return server < servers_.size() ? std::max(servers_[server].free_at, events_.now()) : events_.now();
  };
  std::size_t best = first;
  for (std::size_t server = first + 1; server < first + count; ++server) {
    best = free_at(server) < free_at(best) ? server : best;
  }
  return best;
}

void Servers::begin(std::size_t server) {
  const Request& request = servers_[server].waiting.front();
  events_.schedule_local(*request.local, request.service, {this, 0, server});
}

void Servers::fire(std::uint32_t, std::uint64_t arg) {
  const auto server = static_cast<std::size_t>(arg);
  check(!servers_[server].waiting.empty(), "a memory server ends only what it serves");
  const Request request = servers_[server].waiting.front();
  use_.busy_ns = saturating_sum(use_.busy_ns, request.service);
  request.done();  // may queue behind those that wait
  servers_[server].waiting.pop_front();
  if (!servers_[server].waiting.empty()) {
    begin(server);
  }
}

}  // namespace astra
