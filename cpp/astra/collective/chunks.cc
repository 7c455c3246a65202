#include "astra/collective/chunks.h"

namespace astra {

Chunks split(CollectiveType type, Bytes size, std::int64_t splits, std::int64_t npus) {
  Bytes chunk = size / splits;
  if (type != CollectiveType::kAllGather && chunk < npus) {
    chunk = npus;
    size = splits * npus;
  }
  if (chunk == 0) {
    return {};
  }
  return {chunk, (size + chunk - 1) / chunk};
}

}  // namespace astra
