// Every block goes to the neighbour in the logical ring, one at a time.
#pragma once

#include "astra/collective/algorithm.h"

namespace astra {

class RingAlgorithm final : public BlockAlgorithm {
 public:
  void plan(Phase& phase) const override;
  Block block(const Phase& phase, std::int64_t k) const override;
  std::int64_t partners(const Phase&) const override { return 1; }
  std::int64_t cycle(const Phase& phase) const override { return phase.members; }
  bool is_uniform() const override { return true; }
};

}  // namespace astra
