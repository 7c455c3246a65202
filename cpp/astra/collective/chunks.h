// From the size of a collective to its chunks.
#pragma once

#include "astra/base/types.h"
#include "astra/collective/algorithm.h"

namespace astra {

struct Chunks {
  Bytes bytes = 0;         // of each chunk but the last
  Bytes last_bytes = 0;    // of the last
  std::int64_t count = 0;  // 0 when the size cannot be split: in ASTRA-sim, an all-gather smaller than `splits`

  bool are_equal() const { return bytes == last_bytes; }
};

// In ASTRA-sim a partial last chunk counts in full, and no chunk but an all-gather's is smaller than a byte per rank of
// the whole system: `npus`.
Chunks split(CollectiveType type, Bytes size, std::int64_t splits, std::int64_t npus, Rules rules);

}  // namespace astra
