// Every block goes to the successor in the logical ring and comes from the predecessor, one at a time.
#pragma once

#include "astra/collective/algorithm.h"

namespace astra {

class RingAlgorithm final : public CollectiveAlgorithm {
 public:
  Phase phase(CollectiveType type, Bytes bytes, std::int32_t members, std::int32_t index) const override;
  Block block(const Phase& phase, std::int64_t k) const override;
  std::int64_t reductions(const Phase& phase) const override;
};

}  // namespace astra
