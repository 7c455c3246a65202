// What a local reduction costs.
#pragma once

#include "astra/base/truncate.h"
#include "astra/base/types.h"

namespace astra {

// One write and two reads of `bytes`, each truncated; `bandwidth` in bytes per second, 0 meaning free.
inline Time reduction_time(Bytes bytes, double bandwidth) {
  return bandwidth > 0 ? 3 * truncate(static_cast<double>(bytes) / bandwidth * 1e9) : 0;
}

}  // namespace astra
