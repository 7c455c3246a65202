#include "astra/collective/direct.h"

#include <algorithm>

namespace astra {

void DirectAlgorithm::plan(Phase& phase) const {
  const std::int64_t others = phase.members - 1;
  phase.window = window_ == 0 ? others : std::min(window_, others);
  phase.is_gated = phase.type == CollectiveType::kAllReduce;
  phase.to_send = phase.is_gated ? 2 * others : others;
}

// Each of the first members - 1 blocks received is reduced by the preparation that it causes. ASTRA-sim counts in
// cycles instead: `window` preparations without, then as many with (for groups: members - 1 times as many); an
// all-reduce in every other cycle.
bool DirectAlgorithm::is_reducing(const Phase& phase, std::int64_t k) const {
  const std::int64_t others = phase.members - 1;
  if (!reduces(phase.type)) {
    return false;
  }
  if (rules_ == Rules::kRight) {
    return phase.window <= k && k < phase.window + others;
  }
  const bool is_marked = k % cycle(phase) >= phase.window;
  return is_marked && (phase.type == CollectiveType::kReduceScatter || k / cycle(phase) % 2 == 0);
}

Block DirectAlgorithm::block(const Phase& phase, std::int64_t k) const {
  const std::int32_t n = phase.members;
  const auto distance = static_cast<std::int32_t>(1 + k % (n - 1)) * phase.step;
  Block block;
  block.to = (phase.index + distance + n) % n;
  block.from = (phase.index - distance + n) % n;
  block.bytes = phase.type == CollectiveType::kAllGather ? phase.bytes : phase.bytes / n;
  if (is_reducing(phase, k)) {
    block.reduced = block.bytes;
  }
  return block;
}

}  // namespace astra
