// Pairs sends with receives: the i-th send with a key meets the i-th receive with the same key.
#pragma once

#include <cstdint>
#include <unordered_map>

#include "astra/base/slots.h"
#include "astra/event/event_queue.h"
#include "astra/network/network.h"

namespace astra {

// Different byte counts never meet; a send completes at its arrival whether or not somebody receives it.
struct MessageKey {
  std::uint64_t tag = 0;
  Rank from = 0;
  Rank to = 0;
  Bytes bytes = 0;

  bool operator==(const MessageKey&) const = default;
};

class Mailbox final : public EventTarget {
 public:
  Mailbox(EventQueue& events, Network& network) : events_(events), network_(network) {}

  // `sent` is called when the message arrives, before the receiver's call.
  void send(const MessageKey& key, Call sent);
  // `received` is called when the message arrives, or in an event of its own at once if it already has.
  void receive(const MessageKey& key, Call received);
  // Forgets messages that nobody received.
  void clear();

  void fire(std::uint32_t code, std::uint64_t arg) override;

 private:
  enum Code : std::uint32_t { kArrived, kPickedUp };
  static constexpr std::uint32_t kNone = 0xffffffff;

  struct Message {
    Call sent;
    Call received;
    bool is_received = false;  // the receive has been posted
    bool is_arrived = false;
    std::uint32_t next = kNone;
  };
  // Messages of one key that still lack their send or their receive; never both kinds at once.
  struct Unpaired {
    std::uint32_t head = kNone;
    std::uint32_t tail = kNone;
    bool lack_send = false;
  };
  struct Hash {
    std::size_t operator()(const MessageKey& key) const;
  };

  // Returns the oldest message of the key that lacks the given half, or a new one that lacks the other.
  std::uint32_t pair(const MessageKey& key, bool is_send);

  EventQueue& events_;
  Network& network_;
  Slots<Message> messages_;
  std::unordered_map<MessageKey, Unpaired, Hash> unpaired_;
};

}  // namespace astra
