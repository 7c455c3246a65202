// Arithmetic on times that cannot leave the range of Time unnoticed.
#pragma once

#include <limits>

#include "astra/base/errors.h"
#include "astra/base/types.h"

namespace astra {

constexpr double kLongest = 1e18;             // ns; a few of them still add up to less than 2^63
constexpr Time kHorizon = Time{1} << 62;      // ns; a submission is made no later and takes less
constexpr std::int64_t kMostCount = 1 << 24;  // of ranks, of chunks; products of two are far from 2^63

// Drops the fraction, at the places where ASTRA-sim does.
inline Time truncate(double value) {
  if (!(value >= 0 && value < kLongest)) [[unlikely]] {
    refuse("a computed duration is not between 0 and 10^18 ns: a size or latency is too large");
  }
  return static_cast<Time>(value);
}

inline Time checked_sum(Time so_far, Time more) {
  Time sum = 0;
  if (__builtin_add_overflow(so_far, more, &sum) || sum >= kHorizon) [[unlikely]] {
    refuse("a submission would take 2^62 ns or more: a duration or size is too large");
  }
  return sum;
}

inline Time checked_product(std::int64_t count, Time each) {
  truncate(static_cast<double>(count) * static_cast<double>(each));
  return count * each;
}

// Of counters and of instants that may lie beyond the end of time; what reaches it stays there.
inline std::int64_t saturating_sum(std::int64_t a, std::int64_t b) {
  std::int64_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? std::numeric_limits<std::int64_t>::max() : sum;
}

inline std::int64_t saturating_product(std::int64_t a, std::int64_t b) {
  std::int64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<std::int64_t>::max() : product;
}

}  // namespace astra
