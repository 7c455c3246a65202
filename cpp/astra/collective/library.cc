#include "astra/collective/library.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"

namespace astra {
namespace {

constexpr const char* kOne = "one";

// A user's own algorithm, by the function that writes its programs.
class AuthoredAlgorithm final : public ProgramAlgorithm {
 public:
  explicit AuthoredAlgorithm(const SystemConfig::Author& author) : author_(author) {}

  Program program(const Phase& phase) const override {
    Program program = author_(phase.type, phase.bytes, phase.members, phase.index);
    check_program(program, phase.members, phase.index);
    constexpr std::uint32_t kTags = 1 << 16;
    if (std::any_of(program.begin(), program.end(), [](const Step& step) { return step.tag >= kTags; })) {
      refuse("the tags of a collective's steps must be below 2^16");
    }
    return program;
  }

 private:
  const SystemConfig::Author& author_;
};

// "oneRing" -> "ring"; other names stay.
std::string without_one(const std::string& name) {
  if (!name.starts_with(kOne) || name.size() < 4) {
    return name;
  }
  std::string plain = name.substr(3);
  plain[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(plain[0])));
  return plain;
}

bool uses(std::uint32_t involved_dims, std::uint32_t dimension) { return (involved_dims >> dimension & 1) != 0; }

}  // namespace

CollectiveLibrary::CollectiveLibrary(SystemConfig config, const Network& network)
    : config_(std::move(config)), network_(network), grid_(network.shape()) {
  check_config(config_);
  ring_dimension_ = {0, "ring", make_algorithm("ring", config_.rules())};
  lists_[0] = make_list("all_reduce", config_.all_reduce);
  lists_[1] = make_list("all_gather", config_.all_gather);
  lists_[2] = make_list("reduce_scatter", config_.reduce_scatter);
  lists_[3] = make_list("all_to_all", config_.all_to_all);
}

std::optional<std::size_t> CollectiveLibrary::list_index(CollectiveType type) {
  switch (type) {
    case CollectiveType::kAllReduce:
      return 0;
    case CollectiveType::kAllGather:
      return 1;
    case CollectiveType::kReduceScatter:
      return 2;
    case CollectiveType::kAllToAll:
      return 3;
    default:
      return std::nullopt;
  }
}

CollectiveLibrary::List CollectiveLibrary::make_list(const char* field, const std::vector<std::string>& names) const {
  std::vector<std::string> all = names;
  if (!config_.parity && names.size() == 1 && !names[0].starts_with(kOne)) {
    all.assign(grid_.dimensions(), names[0]);  // one name stands for every dimension
  }
  const bool is_short = all.size() < grid_.dimensions() && !all.empty() && !all.back().starts_with(kOne);
  if (all.size() > grid_.dimensions() || (!config_.parity && is_short)) {
    refuse(std::string("system: ") + field + " must name one algorithm per network dimension: " +
           std::to_string(grid_.dimensions()) + ", not " + std::to_string(all.size()));
  }
  List list;
  list.is_for_groups = names.size() == 1 && !(config_.parity && config_.is_fork());
  for (std::uint32_t d = 0; d < all.size() && !list.is_one; ++d) {
    Dimension dimension{d, all[d], nullptr};
    if (const auto author = config_.authors.find(all[d]); author != config_.authors.end()) {
      dimension.algorithm = std::make_unique<AuthoredAlgorithm>(author->second);
    } else {
      list.is_one = all[d].starts_with(kOne);
      dimension.algorithm = make_algorithm(without_one(all[d]), config_.rules());
    }
    if (list.is_one) {
      list.dimensions.clear();
    }
    list.dimensions.push_back(std::move(dimension));
  }
  return list;
}

// In ASTRA-sim a group smaller than the system uses the type's algorithm only if there is one for all dimensions.
const CollectiveLibrary::Dimension& CollectiveLibrary::group_dimension(const List& list) const {
  return list.is_for_groups ? list.dimensions[0] : ring_dimension_;
}

Communicator CollectiveLibrary::communicator(const std::vector<Rank>& ranks, std::uint64_t id) const {
  Communicator result;
  result.id = id;
  result.endpoint_delay_ns = config_.endpoint_delay_ns;
  result.ranks = ranks;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    if (ranks[i] < 0 || ranks[i] >= network_.npus()) {
      refuse("group " + std::to_string(id - 1) + ": rank " + std::to_string(ranks[i]) + " is not below npus_count " +
             std::to_string(network_.npus()));
    }
    result.places.emplace_back(ranks[i], static_cast<std::int32_t>(i));
  }
  std::sort(result.places.begin(), result.places.end());
  const auto is_same = [](const auto& a, const auto& b) { return a.first == b.first; };
  const auto twice = std::adjacent_find(result.places.begin(), result.places.end(), is_same);
  if (twice != result.places.end()) {
    refuse("group " + std::to_string(id - 1) + ": rank " + std::to_string(twice->first) + " is listed twice");
  }
  if (ranks.empty() || static_cast<std::int64_t>(ranks.size()) == network_.npus()) {
    // The whole system uses the network's own order, whatever order is listed.
    result.is_whole = true;
    result.places.clear();
    result.ranks.resize(static_cast<std::size_t>(network_.npus()));
    std::iota(result.ranks.begin(), result.ranks.end(), 0);
    find_box(result);
  } else if (config_.parity) {
    constexpr Time kGroupDelayNs = 10;
    result.endpoint_delay_ns = kGroupDelayNs;
  } else {
    find_box(result);
  }
  return result;
}

// Ranks that fill a box of the grid, listed in its order, can be decomposed along its axes.
void CollectiveLibrary::find_box(Communicator& communicator) const {
  const Rank first = communicator.ranks.front();
  const Rank last = communicator.ranks.back();
  std::vector<Communicator::Axis> axes;
  std::int64_t size = 1;
  for (std::uint32_t d = 0; d < grid_.dimensions(); ++d) {
    const std::int64_t members = grid_.coordinate(last, d) - grid_.coordinate(first, d) + 1;
    if (members < 1) {
      return;
    }
    axes.push_back({d, static_cast<Rank>(grid_.stride(d)), static_cast<std::int32_t>(members)});
    size *= members;
  }
  if (size != communicator.size()) {
    return;
  }
  for (std::int64_t i = 0; i < size; ++i) {
    std::int64_t rest = i;
    Rank rank = first;
    for (const Communicator::Axis& axis : axes) {
      rank += static_cast<Rank>(rest % axis.members) * axis.stride;
      rest /= axis.members;
    }
    if (rank != communicator.ranks[static_cast<std::size_t>(i)]) {
      return;
    }
  }
  communicator.axes = std::move(axes);
}

std::vector<CollectiveLibrary::Usable> CollectiveLibrary::usable(const CollectiveRequest& request, Rank rank) const {
  const Communicator& communicator = *request.communicator;
  const List& list = this->list(request.type);
  const std::uint32_t mask = communicator.id == 0 ? request.involved_dims : kAllDimensions;
  std::vector<Usable> result;
  if (communicator.size() == 1) {
    return result;
  }
  if (list.is_one && communicator.is_whole) {
    const Dimension& dimension = list.dimensions[0];
    if (uses(mask, dimension.index)) {
      result.push_back({dimension.index, &dimension, communicator.size(), rank, {}, false});
    }
    return result;
  }
  if (list.is_one || communicator.axes.empty()) {
    const std::int32_t place = communicator.place(rank);
    const LogicalRing ring{communicator.ranks.data(), 0, 1};
    result.push_back({0, &group_dimension(list), communicator.size(), place, ring, !communicator.is_whole});
    return result;
  }
  for (const Communicator::Axis& axis : communicator.axes) {
    if (axis.members == 1 || !uses(mask, axis.dimension) || axis.dimension >= list.dimensions.size()) {
      continue;
    }
    const std::int64_t origin = grid_.coordinate(communicator.ranks.front(), axis.dimension);
    const auto place = static_cast<std::int32_t>(grid_.coordinate(rank, axis.dimension) - origin);
    const LogicalRing ring{nullptr, rank - place * axis.stride, axis.stride};
    result.push_back({axis.dimension, &list.dimensions[axis.dimension], axis.members, place, ring, false});
  }
  return result;
}

// Makes a phase of input `bytes`, and `bytes` its output.
PhasePlan CollectiveLibrary::plan(const Usable& usable, CollectiveType type, Bytes& bytes, QueueHalf half) {
  const CollectiveAlgorithm& algorithm = *usable.dimension->algorithm;
  PhasePlan plan;
  plan.phase = {
      .type = type, .bytes = bytes, .members = usable.members, .index = usable.place, .is_group = usable.is_group};
  plan.ring = usable.ring;
  plan.dimension = usable.index;
  plan.half = half;
  plan.blocks = dynamic_cast<const BlockAlgorithm*>(&algorithm);
  plan.steps = dynamic_cast<const ProgramAlgorithm*>(&algorithm);
  plan.variants = algorithm.variants();
  if (algorithm.keeps_type() && type == CollectiveType::kReduceScatter) {
    bytes /= usable.members;
  } else if (algorithm.keeps_type() && type == CollectiveType::kAllGather) {
    bytes *= usable.members;
  }
  return plan;
}

std::vector<PhasePlan> CollectiveLibrary::phases(const CollectiveRequest& request, Bytes bytes, Rank rank) const {
  std::vector<Usable> dims = usable(request, rank);
  std::vector<PhasePlan> result;
  const bool is_local_aware =
      request.type == CollectiveType::kAllReduce && config_.collective_optimization == "localBWAware";
  const bool can_scatter = config_.parity || std::all_of(dims.begin(), dims.end(), [](const Usable& u) {
                             return u.dimension->algorithm->keeps_type();
                           });
  if (is_local_aware && can_scatter && !dims.empty()) {
    for (std::size_t i = 0; i + 1 < dims.size(); ++i) {
      result.push_back(plan(dims[i], CollectiveType::kReduceScatter, bytes, QueueHalf::kFirst));
    }
    result.push_back(plan(dims.back(), CollectiveType::kAllReduce, bytes, QueueHalf::kFirst));
    for (std::size_t i = dims.size() - 1; i-- > 0;) {
      result.push_back(plan(dims[i], CollectiveType::kAllGather, bytes, QueueHalf::kSecond));
    }
    return result;
  }
  if (request.type == CollectiveType::kAllGather) {
    std::reverse(dims.begin(), dims.end());
  }
  for (const Usable& dimension : dims) {
    result.push_back(plan(dimension, request.type, bytes, QueueHalf::kBoth));
  }
  return result;
}

const Program* CollectiveLibrary::program(const CollectiveRequest& request, Rank rank) const {
  std::int32_t set = request.program;
  if (set < 0) {
    const auto custom = config_.custom.find(request.type);
    if (custom == config_.custom.end()) {
      return nullptr;
    }
    set = custom->second;
  }
  return &config_.programs[static_cast<std::size_t>(set)][static_cast<std::size_t>(request.communicator->place(rank))];
}

}  // namespace astra
