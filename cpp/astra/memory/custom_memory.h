// A memory of the user's own, asked once per class of accesses.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <tuple>

#include "astra/memory/servers.h"

namespace astra {

class CustomMemory final : public MemoryModel {
 public:
  CustomMemory(const MemoryLevel& level, const char* where, EventQueue& events);

  void request(const MemoryAccess& access, LocalTimes& local, Call done) override;
  void compute(const MemoryAccess& access, Time duration, LocalTimes& local, Call done) override;
  bool is_contention_free() const override { return level_.server == nullptr; }
  Time service_time(const MemoryAccess& access) const override;
  void check_access(const MemoryAccess& access, bool is_pim) const override;

 private:
  using Server = std::optional<std::int64_t>;

  void serve(const MemoryAccess& access, Time service, LocalTimes& local, Call done);
  Server server(const MemoryAccess& access) const;

  MemoryLevel level_;
  std::string name_;
  Servers servers_;
  EventQueue& events_;
  // Answers so far.
  mutable std::map<std::tuple<std::int32_t, std::int32_t, bool, Bytes>, Time> services_ns_;
  mutable std::map<std::tuple<Rank, std::int32_t, std::int32_t>, Server> server_of_;
  std::map<std::int64_t, std::size_t> place_;  // of the user's servers among `servers_`
};

}  // namespace astra
