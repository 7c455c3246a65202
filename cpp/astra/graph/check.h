// Whether a graph makes sense on a given system.
#pragma once

#include <deque>

#include "astra/graph/services.h"
#include "astra/graph/spec.h"

namespace astra {

// Names a node for messages: "node 3 'attention'".
std::string describe(const GraphSpec& graph, std::size_t node);

// Raises std::invalid_argument with what is wrong and where.
void check_graph(const GraphSpec& graph, const Services& services);

// Raises std::invalid_argument on collectives that could never complete.
void check_collectives(const GraphSpec& graph, const Services& services, const std::deque<Communicator>& communicators);

// The class that holds each rank of the network, or -1.
std::vector<std::int32_t> class_of_rank(const GraphSpec& graph, std::int64_t npus);

}  // namespace astra
