#include "astra/memory/memory_model.h"

#include "astra/base/truncate.h"

namespace astra {

void MemoryModel::count_timed(const MemoryAccess& access, std::int64_t times) {
  count(access, times);
  use_.busy_ns = saturating_sum(use_.busy_ns, saturating_product(times, service_time(access)));
}

void MemoryModel::count(const MemoryAccess& access, std::int64_t times) {
  Bytes& moved = access.is_store ? use_.bytes_stored : use_.bytes_loaded;
  moved = saturating_sum(moved, saturating_product(times, access.bytes));
  use_.accesses = saturating_sum(use_.accesses, times);
}

}  // namespace astra
