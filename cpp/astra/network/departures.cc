#include "astra/network/departures.h"

#include "astra/base/errors.h"

namespace astra {

void Departures::put(std::uint32_t place, const Entry& entry) {
  heap_[place] = entry;
  places_[entry.flow] = place;
}

void Departures::rise(std::uint32_t place, const Entry& entry) {
  while (place > 0 && entry < heap_[(place - 1) / 2]) {
    put(place, heap_[(place - 1) / 2]);
    place = (place - 1) / 2;
  }
  put(place, entry);
}

void Departures::sink(std::uint32_t place, const Entry& entry) {
  const auto size = static_cast<std::uint32_t>(heap_.size());
  for (;;) {
    std::uint32_t child = 2 * place + 1;
    if (child + 1 < size && heap_[child + 1] < heap_[child]) {
      ++child;
    }
    if (child >= size || !(heap_[child] < entry)) {
      break;
    }
    put(place, heap_[child]);
    place = child;
  }
  put(place, entry);
}

void Departures::set(std::uint32_t flow, Time time, std::uint64_t order) {
  if (flow >= places_.size()) {
    places_.resize(flow + 1, kAbsent);
  }
  const Entry entry{time, order, flow};
  const std::uint32_t place = places_[flow];
  if (place == kAbsent) {
    heap_.push_back(entry);
    rise(static_cast<std::uint32_t>(heap_.size() - 1), entry);
  } else if (entry < heap_[place]) {
    rise(place, entry);
  } else {
    sink(place, entry);
  }
}

std::uint32_t Departures::pop() {
  check(!heap_.empty(), "only a flow that is under way leaves");
  const std::uint32_t flow = heap_.front().flow;
  const Entry last = heap_.back();
  heap_.pop_back();
  if (!heap_.empty()) {
    sink(0, last);
  }
  places_[flow] = kAbsent;
  return flow;
}

}  // namespace astra
