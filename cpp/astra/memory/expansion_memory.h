// ASTRA-sim's memories and those of LLMServingSim: who queues depends on who asks.
#pragma once

#include <string>

#include "astra/memory/servers.h"

namespace astra {

class ExpansionMemory final : public MemoryModel {
 public:
  // The level is checked.
  ExpansionMemory(const MemoryLevel& level, const char* where, EventQueue& events);

  void request(const MemoryAccess& access, LocalTimes& local, Call done) override;
  void compute(const MemoryAccess& access, Time duration, LocalTimes& local, Call done) override;
  bool is_contention_free() const override { return !is_queued_; }
  Time service_time(const MemoryAccess& access) const override;
  void check_access(const MemoryAccess& access, bool is_pim) const override;

 private:
  std::size_t server(const MemoryAccess& access) const;

  MemoryLevel level_;
  std::string where_;
  bool is_queued_;
  Servers servers_;
  Servers channels_;
  EventQueue& events_;
};

}  // namespace astra
