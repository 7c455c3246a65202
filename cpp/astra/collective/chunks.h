// From the size of a collective to its chunks.
#pragma once

#include "astra/base/types.h"
#include "astra/collective/types.h"

namespace astra {

struct Chunks {
  Bytes bytes = 0;         // of each chunk; a partial last chunk counts in full
  std::int64_t count = 0;  // 0 when the size cannot be split: an all-gather smaller than `splits`
};

// `npus` is the whole system's, also for groups: no chunk but an all-gather's is smaller.
Chunks split(CollectiveType type, Bytes size, std::int64_t splits, std::int64_t npus);

}  // namespace astra
