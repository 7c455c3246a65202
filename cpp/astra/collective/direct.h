// Every block goes straight to its destination, at most `window` at a time.
#pragma once

#include "astra/collective/algorithm.h"

namespace astra {

class DirectAlgorithm final : public BlockAlgorithm {
 public:
  // A window of 0 is unlimited.
  DirectAlgorithm(std::int64_t window, Rules rules) : window_(window), rules_(rules) {}

  void plan(Phase& phase) const override;
  Block block(const Phase& phase, std::int64_t k) const override;
  std::int64_t partners(const Phase& phase) const override { return phase.members - 1; }
  std::int64_t cycle(const Phase& phase) const override { return phase.window * (phase.is_group ? phase.members : 2); }

 private:
  bool is_reducing(const Phase& phase, std::int64_t k) const;

  std::int64_t window_;
  Rules rules_;
};

}  // namespace astra
