// How ranks on a grid are numbered.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "astra/base/types.h"

namespace astra {

// Coordinates of ranks; dimension 0 varies fastest.
class Grid {
 public:
  explicit Grid(std::vector<std::int64_t> counts) : counts_(std::move(counts)) {
    for (const std::int64_t count : counts_) {
      strides_.push_back(size_);
      size_ *= count;
    }
  }

  const std::vector<std::int64_t>& counts() const { return counts_; }
  std::int64_t size() const { return size_; }
  std::size_t dimensions() const { return counts_.size(); }
  std::int64_t stride(std::size_t dimension) const { return strides_[dimension]; }
  std::int64_t coordinate(Rank rank, std::size_t dimension) const {
    return rank / strides_[dimension] % counts_[dimension];
  }

 private:
  std::vector<std::int64_t> counts_;
  std::vector<std::int64_t> strides_;
  std::int64_t size_ = 1;
};

}  // namespace astra
