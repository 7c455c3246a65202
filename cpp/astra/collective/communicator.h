// The ranks of a collective, in the order of its logical ring.
#pragma once

#include <cstdint>
#include <vector>

#include "astra/base/types.h"

namespace astra {

struct Communicator {
  std::vector<Rank> ranks;
  std::uint64_t id = 0;             // 0: all ranks of the network
  Time endpoint_delay_ns = 0;       // paid per preparation
  std::vector<std::int32_t> place;  // of each rank of the network in `ranks`, or -1
};

}  // namespace astra
