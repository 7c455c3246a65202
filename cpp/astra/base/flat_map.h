// A hash map in one piece of memory: no allocation per entry, for tables whose entries come and go all the time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace astra {

// Linear probing; erasing closes the gap. Pointers into it are invalidated by `insert` and `erase`.
template <typename Key, typename Value, typename Hash>
class FlatMap {
 public:
  Value* find(const Key& key) {
    if (size_ == 0) {
      return nullptr;
    }
    for (std::size_t i = home(key);; i = next(i)) {
      if (!slots_[i].is_used) return nullptr;
      if (slots_[i].key == key) return &slots_[i].value;
    }
  }

  // The key must be absent.
  void insert(const Key& key, Value value) {
    if ((size_ + 1) * 2 > slots_.size()) {
      grow();
    }
    place(key, std::move(value));
  }

  // Takes what `find` returned.
  void erase(Value* value) {
    auto* slot = reinterpret_cast<Slot*>(reinterpret_cast<char*>(value) - offsetof(Slot, value));
    std::size_t hole = static_cast<std::size_t>(slot - slots_.data());
    for (std::size_t i = next(hole); slots_[i].is_used; i = next(i)) {
      // An entry may fill the hole unless its home lies between the hole and itself.
      if (((i - home(slots_[i].key)) & mask()) >= ((i - hole) & mask())) {
        slots_[hole] = std::move(slots_[i]);
        hole = i;
      }
    }
    slots_[hole].is_used = false;
    --size_;
  }

  void clear() {
    if (size_ > 0) {
      for (Slot& slot : slots_) slot.is_used = false;
      size_ = 0;
    }
  }

 private:
  struct Slot {
    Key key{};
    Value value{};
    bool is_used = false;
  };

  std::size_t mask() const { return slots_.size() - 1; }
  std::size_t home(const Key& key) const { return Hash{}(key)&mask(); }
  std::size_t next(std::size_t i) const { return (i + 1) & mask(); }

  void place(const Key& key, Value value) {
    std::size_t i = home(key);
    while (slots_[i].is_used) {
      i = next(i);
    }
    slots_[i] = {key, std::move(value), true};
    ++size_;
  }

  void grow() {
    std::vector<Slot> old = std::move(slots_);
    slots_ = std::vector<Slot>(old.empty() ? 16 : old.size() * 2);
    size_ = 0;
    for (Slot& slot : old) {
      if (slot.is_used) place(slot.key, std::move(slot.value));
    }
  }

  std::vector<Slot> slots_;
  std::size_t size_ = 0;
};

// Mixes all bits of a number into all bits of another.
inline std::uint64_t mix(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ULL;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBULL;
  return value ^ (value >> 31);
}

}  // namespace astra
