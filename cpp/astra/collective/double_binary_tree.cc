#include "astra/collective/double_binary_tree.h"

#include <bit>

#include "astra/base/errors.h"

namespace astra {
namespace {

constexpr std::int32_t kNobody = -1;

struct Node {
  std::int32_t parent = kNobody;
  std::int32_t left = kNobody;
  std::int32_t right = kNobody;
};

// Places in order are the in-order walk of a root above one perfect binary tree. In tree 0 the root is the last place,
// in tree 1 the first.
Node find_node(std::int32_t index, std::int32_t members, std::int32_t tree) {
  const std::int32_t root = tree == 0 ? members - 1 : 0;
  const std::int32_t shift = tree == 0 ? 1 : 0;  // places of the perfect tree, counted from 1
  if (index == root) {
    return {kNobody, members / 2 - shift, kNobody};
  }
  const std::int32_t place = index + shift;
  const auto height = std::countr_zero(static_cast<std::uint32_t>(place));
  const std::int32_t reach = std::int32_t{1} << height;
  Node node;
  if (place == members / 2) {
    node.parent = root;
  } else {
    node.parent = ((place & (2 * reach)) != 0 ? place - reach : place + reach) - shift;
  }
  if (height > 0) {
    node.left = place - reach / 2 - shift;
    node.right = place + reach / 2 - shift;
  }
  return node;
}

Step send(std::int32_t peer, Bytes bytes, std::vector<std::uint32_t> after) {
  return {.kind = StepKind::kSend, .peer = peer, .bytes = bytes, .is_awaited = false, .after = std::move(after)};
}

Step receive(std::int32_t peer, Bytes bytes, std::vector<std::uint32_t> after) {
  return {.kind = StepKind::kReceive, .peer = peer, .bytes = bytes, .after = std::move(after)};
}

Step handle(StepKind kind, Bytes bytes, BusWay bus, std::vector<std::uint32_t> after) {
  return {.kind = kind, .bytes = bytes, .after = std::move(after), .bus = bus};
}

}  // namespace

void DoubleBinaryTreeAlgorithm::check_members(CollectiveType type, std::int32_t members,
                                              const std::string& name) const {
  if (rules_ == Rules::kRight && type != CollectiveType::kAllReduce) {
    refuse("system: " + name + " is an algorithm for all_reduce alone");
  }
  if (!std::has_single_bit(static_cast<std::uint32_t>(members))) {
    refuse("system: " + name + " needs a power of two of ranks, not " + std::to_string(members) +
           " (ASTRA-sim would crash); use ring or direct");
  }
}

Program DoubleBinaryTreeAlgorithm::program(const Phase& phase) const {
  const Node node = find_node(phase.index, phase.members, phase.variant);
  const Bytes x = phase.bytes;
  if (node.parent == kNobody) {
    return {receive(node.left, x, {}), handle(StepKind::kReduce, x, BusWay::kThereAndBack, {0}),
            send(node.left, x, {1})};
  }
  if (node.left == kNobody) {
    return {handle(StepKind::kDelay, x, BusWay::kFromRank, {}), send(node.parent, x, {0}), receive(node.parent, x, {0}),
            handle(StepKind::kDelay, x, BusWay::kToRank, {2})};
  }
  // ASTRA-sim charges a reduction on the way down too, where nothing is added up.
  const StepKind down = rules_ == Rules::kAstraSim ? StepKind::kReduce : StepKind::kDelay;
  return {
      receive(node.left, x, {}),
      receive(node.right, x, {}),
      handle(StepKind::kReduce, x, BusWay::kBackIfSecond, {0}),
      handle(StepKind::kReduce, x, BusWay::kBackIfSecond, {1}),
      send(node.parent, x, {2, 3}),
      receive(node.parent, x, {2, 3}),
      handle(down, x, BusWay::kThereAndBack, {5}),
      send(node.left, x, {6}),
      send(node.right, x, {6}),
  };
}

}  // namespace astra
