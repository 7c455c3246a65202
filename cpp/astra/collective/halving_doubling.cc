#include "astra/collective/halving_doubling.h"

#include <algorithm>
#include <bit>

#include "astra/base/errors.h"

namespace astra {
namespace {

std::int64_t log2(std::int32_t members) { return std::countr_zero(static_cast<std::uint32_t>(members)); }

// Of partners in exchange `k`: 1, 2, 4 ... when scattering; backwards when gathering.
std::int64_t distance(const Phase& phase, std::int64_t k) {
  const std::int64_t rounds = log2(phase.members);
  if (phase.type == CollectiveType::kAllGather) {
    return phase.members >> std::min(k + 1, rounds);
  }
  return std::int64_t{1} << std::min(k < rounds ? k : 2 * rounds - 1 - std::min(k, 2 * rounds - 1), rounds);
}

}  // namespace

void HalvingDoublingAlgorithm::check_members(CollectiveType type, std::int32_t members, const std::string& name) const {
  if (type == CollectiveType::kAllToAll) {
    refuse("system: " + name + " is no algorithm for all_to_all; use ring or direct");
  }
  if (!std::has_single_bit(static_cast<std::uint32_t>(members))) {
    refuse("system: " + name + " needs a power of two of ranks, not " + std::to_string(members) +
           " (ASTRA-sim would never finish); use ring or direct");
  }
}

std::int64_t HalvingDoublingAlgorithm::cycle(const Phase& phase) const { return log2(phase.members); }

void HalvingDoublingAlgorithm::plan(Phase& phase) const {
  phase.window = 1;
  phase.to_send = (phase.type == CollectiveType::kAllReduce ? 2 : 1) * log2(phase.members);
}

// Halves on the way out, each time without the fraction; doubles on the way back.
Bytes HalvingDoublingAlgorithm::bytes(const Phase& phase, std::int64_t k) const {
  const std::int64_t rounds = log2(phase.members);
  if (phase.type == CollectiveType::kAllGather) {
    return phase.bytes << std::min(k, rounds);
  }
  if (k < rounds || phase.type == CollectiveType::kReduceScatter) {
    return phase.bytes >> (k + 1);
  }
  const Bytes smallest = rules_ == Rules::kAstraSim ? (phase.bytes >> (rounds + 1)) * 2 : phase.bytes >> rounds;
  return smallest << std::min(k - rounds, rounds);
}

Block HalvingDoublingAlgorithm::block(const Phase& phase, std::int64_t k) const {
  const std::int32_t n = phase.members;
  const std::int64_t rounds = log2(n);
  const std::int64_t off = std::max<std::int64_t>(distance(phase, k), 1);
  const bool is_even = phase.index / off % 2 == 0;
  Block block;
  block.to = static_cast<std::int32_t>((phase.index + (is_even ? off : -off) + n) % n);
  block.from = block.to;
  block.bytes = bytes(phase, k);
  if (!reduces(phase.type) || k == 0) {
    return block;
  }
  // What exchange k - 1 brought is reduced. ASTRA-sim charges the size of the next message, and not the last round.
  if (rules_ == Rules::kAstraSim) {
    block.reduced = k < rounds ? block.bytes : -1;
  } else {
    block.reduced = k <= rounds ? bytes(phase, k - 1) : -1;
  }
  return block;
}

}  // namespace astra
