// What the runs of a simulation share.
#pragma once

#include <memory>

#include "astra/collective/library.h"
#include "astra/event/event_queue.h"
#include "astra/graph/spec.h"
#include "astra/memory/memory_model.h"
#include "astra/network/network.h"

namespace astra {

struct Services {
  EventQueue events;
  std::unique_ptr<Network> network;
  std::unique_ptr<CollectiveLibrary> collectives;
  std::unique_ptr<MemoryModel> local_memory;   // none: not configured
  std::unique_ptr<MemoryModel> remote_memory;  // none: not configured

  MemoryModel* memory(MemoryLocation location) const {
    if (location == MemoryLocation::kLocal) return local_memory.get();
    if (location == MemoryLocation::kRemote) return remote_memory.get();
    return nullptr;
  }
};

}  // namespace astra
