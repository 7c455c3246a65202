#include "astra/memory/buffers.h"

#include <algorithm>

#include "astra/base/errors.h"

namespace astra {

void Buffers::fill(std::int32_t buffer, MemoryModel& memory, const MemoryAccess& access) {
  std::deque<Fill>& fills = streams_[access.rank].fills;
  fills.push_back({buffer, &memory, access, {}});
  if (fills.size() == 1) {
    begin(access.rank);
  }
}

void Buffers::begin(Rank rank) {
  Stream& stream = streams_[rank];
  const Fill& first = stream.fills.front();
  first.memory->request(first.access, stream.local, {this, 0, static_cast<std::uint64_t>(rank)});
}

void Buffers::await(Rank rank, std::int32_t buffer, Call full) {
  std::deque<Fill>& fills = streams_[rank].fills;
  const auto latest = std::find_if(fills.rbegin(), fills.rend(), [=](const Fill& f) { return f.buffer == buffer; });
  if (latest == fills.rend()) {
    events_.schedule(0, full);
  } else {
    latest->awaited_by.push_back(full);
  }
}

void Buffers::fire(std::uint32_t, std::uint64_t arg) {
  const auto rank = static_cast<Rank>(arg);
  std::deque<Fill>& fills = streams_[rank].fills;
  check(!fills.empty(), "a buffer is filled once per request");
  const Fill filled = std::move(fills.front());
  fills.pop_front();
  if (!fills.empty()) {
    begin(rank);
  }
  for (const Call& full : filled.awaited_by) {
    full();
  }
}

}  // namespace astra
