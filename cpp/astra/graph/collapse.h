// Whether one rank can stand for its class.
#pragma once

#include <deque>

#include "astra/collective/communicator.h"
#include "astra/graph/services.h"
#include "astra/graph/spec.h"

namespace astra {

// The communicator of group g is at place g + 1, all ranks of the network at place 0.
std::deque<Communicator> make_communicators(const GraphSpec& graph, const Services& services);

// True when no member of any rank class can differ from its first rank by a nanosecond: collectives span exactly the
// class over equal distances, messages cross equal distances, memory accesses do not queue.
bool can_collapse(const GraphSpec& graph, const Services& services, const std::deque<Communicator>& communicators);

}  // namespace astra
