// A collective algorithm says which messages a rank sends in one phase; the engine does the rest.
//
// A rank *prepares* block k (k = 0, 1, ...) at the start of a phase (the first `window` blocks) and then one block per
// message received. Each preparation costs the endpoint delay and, if it reduces, a local reduction; then the oldest
// prepared block may be sent. The phase ends when all blocks are sent and `window` credits are left.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "astra/base/types.h"
#include "astra/collective/types.h"

namespace astra {

// One phase of one chunk on one rank.
struct Phase {
  CollectiveType type = CollectiveType::kAllReduce;
  Bytes bytes = 0;           // the phase's input
  std::int32_t members = 0;  // of the logical ring
  std::int32_t index = 0;    // the rank's place in it
  std::int64_t to_send = 0;
  std::int64_t window = 1;
};

struct Block {
  std::int32_t to = 0;    // place in the logical ring
  std::int32_t from = 0;  // whose block of the same size is expected
  Bytes bytes = 0;
  bool is_reducing = false;
};

class CollectiveAlgorithm {
 public:
  virtual ~CollectiveAlgorithm() = default;
  // Plans a phase of `bytes` for the rank at `index` among `members`.
  virtual Phase phase(CollectiveType type, Bytes bytes, std::int32_t members, std::int32_t index) const = 0;
  // Block `k` of the phase, in order of preparation.
  virtual Block block(const Phase& phase, std::int64_t k) const = 0;
  // How many of the phase's preparations reduce.
  virtual std::int64_t reductions(const Phase& phase) const = 0;
};

// Raises std::invalid_argument on an unknown name.
std::unique_ptr<CollectiveAlgorithm> make_algorithm(const std::string& name);

}  // namespace astra
