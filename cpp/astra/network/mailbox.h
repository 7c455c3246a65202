// Pairs sends with receives: the i-th send with a key meets the i-th receive with the same key.
#pragma once

#include <cstdint>

#include "astra/base/flat_map.h"
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

// Whoever carries the messages of collectives.
class Messenger {
 public:
  virtual ~Messenger() = default;
  // `sent` is called when the message arrives, before the receiver's call.
  virtual void send(const MessageKey& key, Call sent) = 0;
  // `received` is called when the message arrives, or in an event of its own at once if it already has.
  virtual void receive(const MessageKey& key, Call received) = 0;
  // Sends, and expects a message of the same tag and size from `source`.
  virtual void exchange(const MessageKey& key, Rank source, Call received) {
    send(key, {});
    receive({key.tag, source, key.from, key.bytes}, received);
  }
};

class Mailbox final : public Messenger, public EventTarget {
 public:
  // With `is_rendezvous` a send waits for a handshake of 8192 bytes, which the receiver sends when it is ready.
  Mailbox(EventQueue& events, Network& network, bool is_rendezvous)
      : events_(events), network_(network), is_rendezvous_(is_rendezvous) {}

  void send(const MessageKey& key, Call sent) override;
  void receive(const MessageKey& key, Call received) override;
  // Forgets messages that nobody received.
  void clear();

  void fire(std::uint32_t code, std::uint64_t arg) override;

 private:
  enum Code : std::uint32_t { kArrived, kPickedUp, kSendNow, kReceiveNow };
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
  // A half that waits for its handshake.
  struct Held {
    MessageKey key;
    Call call;
  };

  // Returns the oldest message of the key that lacks the given half, or a new one that lacks the other.
  std::uint32_t pair(const MessageKey& key, bool is_send);
  void send_now(const MessageKey& key, Call sent);
  void receive_now(const MessageKey& key, Call received);
  std::uint32_t hold(const MessageKey& key, Call call);

  EventQueue& events_;
  Network& network_;
  bool is_rendezvous_;
  Slots<Message> messages_;
  Slots<Held> held_;
  FlatMap<MessageKey, Unpaired, Hash> unpaired_;
};

}  // namespace astra
