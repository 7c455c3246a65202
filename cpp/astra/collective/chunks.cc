#include "astra/collective/chunks.h"

namespace astra {
namespace {

Chunks split_evenly(Bytes size, std::int64_t splits) {
  const Bytes chunk = (size + splits - 1) / splits;
  if (chunk == 0) {
    return {};
  }
  const std::int64_t count = (size + chunk - 1) / chunk;
  return {chunk, size - (count - 1) * chunk, count};
}

}  // namespace

Chunks split(CollectiveType type, Bytes size, std::int64_t splits, std::int64_t npus, Rules rules) {
  if (rules == Rules::kRight) {
    return split_evenly(size, splits);
  }
  Bytes chunk = size / splits;
  if (type != CollectiveType::kAllGather && chunk < npus) {
    chunk = npus;
    size = splits * npus;
  }
  if (chunk == 0) {
    return {};
  }
  return {chunk, chunk, (size + chunk - 1) / chunk};
}

}  // namespace astra
