// Whole chunks go up a binary tree, being added up, and down again; chunks alternate between two trees.
#pragma once

#include "astra/collective/algorithm.h"

namespace astra {

class DoubleBinaryTreeAlgorithm final : public ProgramAlgorithm {
 public:
  explicit DoubleBinaryTreeAlgorithm(Rules rules) : rules_(rules) {}

  void check_members(CollectiveType type, std::int32_t members, const std::string& name) const override;
  bool keeps_type() const override { return false; }
  std::int32_t variants() const override { return 2; }
  Program program(const Phase& phase) const override;

 private:
  Rules rules_;
};

}  // namespace astra
