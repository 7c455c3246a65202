#include "astra/collective/ring.h"

namespace astra {

void RingAlgorithm::plan(Phase& phase) const {
  const std::int64_t n = phase.members;
  phase.window = 1;
  phase.to_send = n - 1;
  if (phase.type == CollectiveType::kAllReduce) {
    phase.to_send = 2 * (n - 1);
  } else if (phase.type == CollectiveType::kAllToAll) {
    phase.to_send = n * (n - 1) / 2;
  }
}

Block RingAlgorithm::block(const Phase& phase, std::int64_t k) const {
  const std::int32_t n = phase.members;
  Block block;
  block.to = (phase.index + phase.step + n) % n;
  block.from = (phase.index - phase.step + n) % n;
  block.bytes = phase.type == CollectiveType::kAllGather ? phase.bytes : phase.bytes / n;
  if (reduces(phase.type) && 1 <= k && k <= n - 1) {
    block.reduced = block.bytes;
  }
  return block;
}

}  // namespace astra
