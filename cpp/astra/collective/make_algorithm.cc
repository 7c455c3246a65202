#include <charconv>

#include "astra/base/errors.h"
#include "astra/collective/algorithm.h"
#include "astra/collective/direct.h"
#include "astra/collective/double_binary_tree.h"
#include "astra/collective/halving_doubling.h"
#include "astra/collective/ring.h"

namespace astra {
namespace {

constexpr const char* kDirect = "direct";
constexpr std::size_t kMostDigits = 5;

// "direct" or "direct<W>"; a window of 0 stands for no limit and cannot be written.
std::int64_t window_of(const std::string& name) {
  const std::string digits = name.substr(std::char_traits<char>::length(kDirect), kMostDigits);
  if (digits.empty()) {
    return 0;
  }
  std::int64_t window = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), window);
  if (error != std::errc{} || end != digits.data() + digits.size()) {
    refuse("collective algorithm '" + name + "': expected direct, or direct and a window such as direct4");
  }
  if (window <= 0) {
    refuse("collective algorithm '" + name + "': a window of 0 never starts; expected at least 1");
  }
  return window;
}

}  // namespace

void CollectiveAlgorithm::check_members(CollectiveType, std::int32_t, const std::string&) const {}

std::unique_ptr<CollectiveAlgorithm> make_algorithm(const std::string& name, Rules rules) {
  if (name == "ring") return std::make_unique<RingAlgorithm>();
  if (name == "halvingDoubling") return std::make_unique<HalvingDoublingAlgorithm>(rules);
  if (name == "doubleBinaryTree") return std::make_unique<DoubleBinaryTreeAlgorithm>(rules);
  if (name.starts_with(kDirect)) return std::make_unique<DirectAlgorithm>(window_of(name), rules);
  refuse("collective algorithm '" + name +
         "' is not one of direct, direct<window>, doubleBinaryTree, halvingDoubling, ring, or one of the first three "
         "and ring behind 'one' (oneRing, oneDirect, oneHalvingDoubling)");
}

}  // namespace astra
