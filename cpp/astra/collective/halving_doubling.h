// Partners at distances 1, 2, 4, ... exchange halves, then the same way back.
#pragma once

#include "astra/collective/algorithm.h"

namespace astra {

class HalvingDoublingAlgorithm final : public BlockAlgorithm {
 public:
  explicit HalvingDoublingAlgorithm(Rules rules) : rules_(rules) {}

  void check_members(CollectiveType type, std::int32_t members, const std::string& name) const override;
  void plan(Phase& phase) const override;
  Block block(const Phase& phase, std::int64_t k) const override;
  std::int64_t partners(const Phase& phase) const override { return phase.to_send; }
  std::int64_t cycle(const Phase& phase) const override;

 private:
  Bytes bytes(const Phase& phase, std::int64_t k) const;

  Rules rules_;
};

}  // namespace astra
