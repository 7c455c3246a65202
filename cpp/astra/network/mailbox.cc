#include "astra/network/mailbox.h"

#include "astra/base/errors.h"

namespace astra {
namespace {

constexpr Bytes kHandshakeBytes = 8192;
constexpr std::uint64_t kHandshakeTags = std::uint64_t{1} << 62;  // apart from all others

// The handshake of a message goes the other way.
MessageKey handshake(const MessageKey& key) { return {key.tag | kHandshakeTags, key.to, key.from, kHandshakeBytes}; }

}  // namespace

std::size_t Mailbox::Hash::operator()(const MessageKey& key) const {
  const std::uint64_t ranks =
      (static_cast<std::uint64_t>(static_cast<std::uint32_t>(key.from)) << 32) | static_cast<std::uint32_t>(key.to);
  return static_cast<std::size_t>(
      mix(key.tag * 0x9E3779B97F4A7C15ULL ^ ranks ^ (static_cast<std::uint64_t>(key.bytes) << 20)));
}

std::uint32_t Mailbox::pair(const MessageKey& key, bool is_send) {
  Unpaired* list = unpaired_.find(key);
  if (list == nullptr) {
    const std::uint32_t index = messages_.take();
    unpaired_.insert(key, Unpaired{index, index, !is_send});
    return index;
  }
  if (list->lack_send == is_send) {
    const std::uint32_t index = list->head;
    list->head = messages_[index].next;
    if (list->head == kNone) {
      unpaired_.erase(list);
    }
    return index;
  }
  const std::uint32_t index = messages_.take();
  messages_[list->tail].next = index;
  list->tail = index;
  return index;
}

std::uint32_t Mailbox::hold(const MessageKey& key, Call call) {
  const std::uint32_t index = held_.take();
  held_[index] = {key, call};
  return index;
}

void Mailbox::send(const MessageKey& key, Call sent) {
  if (is_rendezvous_) {
    receive_now(handshake(key), {this, kSendNow, hold(key, sent)});
  } else {
    send_now(key, sent);
  }
}

void Mailbox::receive(const MessageKey& key, Call received) {
  if (is_rendezvous_) {
    send_now(handshake(key), {this, kReceiveNow, hold(key, received)});
  } else {
    receive_now(key, received);
  }
}

void Mailbox::send_now(const MessageKey& key, Call sent) {
  const std::uint32_t index = pair(key, true);
  messages_[index].sent = sent;
  network_.send(key.from, key.to, key.bytes, {this, kArrived, index}, reinterpret_cast<std::uintptr_t>(this));
}

void Mailbox::receive_now(const MessageKey& key, Call received) {
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
  held_.clear();
}

void Mailbox::fire(std::uint32_t code, std::uint64_t arg) {
  const auto index = static_cast<std::uint32_t>(arg);
  if (code == kSendNow || code == kReceiveNow) {
    const Held held = held_[index];
    held_.give_back(index);
    code == kSendNow ? send_now(held.key, held.call) : receive_now(held.key, held.call);
    return;
  }
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
