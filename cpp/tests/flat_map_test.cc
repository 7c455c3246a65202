#include "astra/base/flat_map.h"

#include <map>

#include "check.h"

namespace {

// Few homes, so that probing and closing gaps are what is tested.
struct Crowded {
  std::size_t operator()(int key) const { return static_cast<std::size_t>(key % 3); }
};

void agrees_with_a_map() {
  astra::FlatMap<int, int, Crowded> flat;
  std::map<int, int> known;
  std::uint64_t random = 1;
  for (int i = 0; i < 20000; ++i) {
    random = astra::mix(random + 1);
    const int key = static_cast<int>(random % 40);
    int* found = flat.find(key);
    const auto expected = known.find(key);
    CHECK((found != nullptr) == (expected != known.end()));
    if (found == nullptr) {
      flat.insert(key, i);
      known[key] = i;
    } else {
      CHECK(*found == expected->second);
      flat.erase(found);
      known.erase(expected);
    }
  }
  for (const auto& [key, value] : known) CHECK(*flat.find(key) == value);
  flat.clear();
  for (int key = 0; key < 40; ++key) CHECK(flat.find(key) == nullptr);
}

}  // namespace

Tests flat_map_tests() { return {{"a flat map holds what a map holds", agrees_with_a_map}}; }
