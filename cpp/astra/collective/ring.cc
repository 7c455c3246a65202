#include "astra/collective/ring.h"

#include "astra/base/errors.h"

namespace astra {

Phase RingAlgorithm::phase(CollectiveType type, Bytes bytes, std::int32_t members, std::int32_t index) const {
  const std::int64_t n = members;
  Phase phase{type, bytes, members, index, n - 1, 1};
  if (type == CollectiveType::kAllReduce) {
    phase.to_send = 2 * (n - 1);
  } else if (type == CollectiveType::kAllToAll) {
    phase.to_send = n * (n - 1) / 2;
  }
  return phase;
}

Block RingAlgorithm::block(const Phase& phase, std::int64_t k) const {
  const std::int32_t n = phase.members;
  Block block{(phase.index + 1) % n, (phase.index + n - 1) % n, phase.bytes / n, false};
  if (phase.type == CollectiveType::kAllGather) {
    block.bytes = phase.bytes;
  }
  block.is_reducing = 1 <= k && k <= reductions(phase);
  return block;
}

std::int64_t RingAlgorithm::reductions(const Phase& phase) const {
  const bool reduces = phase.type == CollectiveType::kAllReduce || phase.type == CollectiveType::kReduceScatter;
  return reduces ? phase.members - 1 : 0;
}

std::unique_ptr<CollectiveAlgorithm> make_algorithm(const std::string& name) {
  if (name == "ring") return std::make_unique<RingAlgorithm>();
  refuse("collective algorithm '" + name + "' is not supported; the one that is: ring");
}

}  // namespace astra
