#include "astra/network/mailbox.h"

#include "astra/base/errors.h"

namespace astra {

std::size_t Mailbox::Hash::operator()(const MessageKey& key) const {
  std::uint64_t h = key.tag * 0x9E3779B97F4A7C15ULL;
  h = (h ^ static_cast<std::uint64_t>(key.bytes)) * 0xBF58476D1CE4E5B9ULL;
  h ^= (static_cast<std::uint64_t>(static_cast<std::uint32_t>(key.from)) << 32) | static_cast<std::uint32_t>(key.to);
  h *= 0x94D049BB133111EBULL;
  return static_cast<std::size_t>(h ^ (h >> 29));
}

std::uint32_t Mailbox::pair(const MessageKey& key, bool is_send) {
  const auto found = unpaired_.find(key);
  if (found == unpaired_.end()) {
    const std::uint32_t index = messages_.take();
    unpaired_.emplace(key, Unpaired{index, index, !is_send});
    return index;
  }
  Unpaired& list = found->second;
  if (list.lack_send == is_send) {
    const std::uint32_t index = list.head;
    list.head = messages_[index].next;
    if (list.head == kNone) {
      unpaired_.erase(found);
    }
    return index;
  }
  const std::uint32_t index = messages_.take();
  messages_[list.tail].next = index;
  list.tail = index;
  return index;
}

void Mailbox::send(const MessageKey& key, Call sent) {
  const std::uint32_t index = pair(key, true);
  messages_[index].sent = sent;
  network_.send(key.from, key.to, key.bytes, {this, kArrived, index});
}

void Mailbox::receive(const MessageKey& key, Call received) {
  const std::uint32_t index = pair(key, false);
  Message& message = messages_[index];
  message.received = received;
  message.is_received = true;
  if (message.is_arrived) {
    events_.schedule(0, {this, kPickedUp, index});
  }
}

void Mailbox::clear() {
  unpaired_.clear();
  messages_.clear();
}

void Mailbox::fire(std::uint32_t code, std::uint64_t arg) {
  const auto index = static_cast<std::uint32_t>(arg);
  const Message message = messages_[index];
  if (code == kPickedUp) {
    check(message.is_arrived && message.is_received, "a message is picked up after its arrival");
    messages_.give_back(index);
    message.received();
    return;
  }
  if (message.is_received) {
    messages_.give_back(index);
  } else {
    messages_[index].is_arrived = true;
  }
  message.sent();
  if (message.is_received) {
    message.received();
  }
}

}  // namespace astra
