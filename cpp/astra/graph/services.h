// What the runs of a simulation share.
#pragma once

#include <array>
#include <memory>

#include "astra/collective/engine.h"
#include "astra/collective/library.h"
#include "astra/collective/symmetric.h"
#include "astra/event/event_queue.h"
#include "astra/graph/spec.h"
#include "astra/memory/buffers.h"
#include "astra/memory/memory_model.h"
#include "astra/network/network.h"

namespace astra {

struct Services {
  EventQueue events;
  std::unique_ptr<Network> network;
  std::unique_ptr<CollectiveLibrary> collectives;
  std::unique_ptr<SymmetricTimer> symmetric;
  TurnsOfRanks turns;  // that collectives of all runs take together, in LLMServingSim; else empty
  std::array<std::unique_ptr<MemoryModel>, 5> memories;  // by location; none: not configured
  Buffers buffers{events};

  MemoryModel* memory(MemoryLocation location) const {
    const auto index = static_cast<std::size_t>(location);
    return index < memories.size() ? memories[index].get() : nullptr;
  }
};

}  // namespace astra
