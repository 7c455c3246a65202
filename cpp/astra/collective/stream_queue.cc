#include "astra/collective/stream_queue.h"

#include "astra/base/errors.h"

namespace astra {

void StreamQueue::enter(std::uint32_t stream, std::int64_t priority) {
  auto place = waiting_.end();
  while (place != waiting_.begin() + static_cast<std::ptrdiff_t>(head_) && (place - 1)->priority < priority) {
    --place;
  }
  waiting_.insert(place, {priority, stream});
}

void StreamQueue::leave() {
  --started_;
  check(started_ >= 0, "a stream leaves a queue once");
}

bool StreamQueue::start(std::int64_t limit, std::uint32_t* stream) {
  if (started_ >= limit || head_ == waiting_.size()) {
    return false;
  }
  *stream = waiting_[head_++].stream;
  if (head_ == waiting_.size()) {
    waiting_.clear();
    head_ = 0;
  }
  ++started_;
  return true;
}

void StreamQueue::clear() {
  waiting_.clear();
  head_ = 0;
  started_ = 0;
}

}  // namespace astra
