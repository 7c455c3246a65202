// What can be said of a collective before it runs.
#include <algorithm>
#include <string>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"
#include "astra/collective/library.h"

namespace astra {

void CollectiveLibrary::check_request(const CollectiveRequest& request) const {
  const auto type = std::to_string(static_cast<int>(request.type));
  if (list(request.type).dimensions.empty()) {
    refuse("the system names no algorithm for collective type " + type);
  }
  const auto sets = static_cast<std::int32_t>(config_.programs.size());
  const Rank rank = request.communicator->ranks.front();
  if (request.program < -1 || request.program >= sets) {
    refuse("there is no set " + std::to_string(request.program) + " of collective programs");
  }
  if (const auto custom = config_.custom.find(request.type); request.program >= 0 || custom != config_.custom.end()) {
    const std::int32_t set = request.program >= 0 ? request.program : custom->second;
    const std::size_t places = config_.programs[static_cast<std::size_t>(set)].size();
    if (places != request.communicator->ranks.size()) {
      refuse("a collective over " + std::to_string(request.communicator->size()) + " ranks is given programs for " +
             std::to_string(places));
    }
    return;
  }
  const std::vector<Usable> dims = usable(request, rank);
  for (const Usable& dimension : dims) {
    const CollectiveAlgorithm& algorithm = *dimension.dimension->algorithm;
    algorithm.check_members(request.type, dimension.members, dimension.dimension->name);
    if (dimension.is_group && config_.parity && !algorithm.keeps_type()) {
      refuse("ASTRA-sim crashes on " + dimension.dimension->name + " over a group smaller than the system");
    }
  }
  if (dims.empty() && config_.parity) {
    refuse(request.communicator->size() == 1
               ? "a collective of one rank never completes in ASTRA-sim"
               : "involved_dim leaves no dimension of more than one rank: ASTRA-sim never completes the collective");
  }
}

void CollectiveLibrary::check_size(const CollectiveRequest& request) const {
  const Communicator& communicator = *request.communicator;
  if (is_instant(request)) {
    return;
  }
  if (chunks(request.type, request.size).count == 0) {
    refuse("an all-gather of " + std::to_string(request.size) + " bytes cannot be split into " +
           std::to_string(config_.preferred_dataset_splits) +
           " chunks (preferred_dataset_splits): ASTRA-sim would loop for ever");
  }
  if (request.size <= communicator.largest_checked || communicator.size() == 1) {
    return;
  }
  // No message is larger than all that a rank may end up with, and a collective sends fewer than 2^26 of them in a row.
  const double most = static_cast<double>(request.size) * communicator.size();
  truncate(most);
  const Bytes bytes = static_cast<Bytes>(most);
  truncate(static_cast<double>(network_.lone_delay(communicator.ranks[0], communicator.ranks[1], bytes)) +
           static_cast<double>(reduction(bytes)));
  communicator.largest_checked = request.size;
}

bool CollectiveLibrary::is_instant(const CollectiveRequest& request) const {
  if (config_.parity) {
    return false;
  }
  const Communicator& communicator = *request.communicator;
  return communicator.size() == 1 || request.size == 0 ||
         (communicator.id == 0 && request.involved_dims != kAllDimensions && usable(request, 0).empty());
}

Chunks CollectiveLibrary::chunks(CollectiveType type, Bytes size) const {
  return split(type, size, config_.preferred_dataset_splits, network_.npus(), config_.rules());
}

Time CollectiveLibrary::reduction(Bytes bytes) const {
  const double bandwidth = config_.local_mem_bandwidth;
  return bandwidth > 0 ? 3 * truncate(static_cast<double>(bytes) / bandwidth * 1e9) : 0;
}

// Straight lines between measurements; below the smallest its time, above the largest at the pace of the last two.
std::optional<Time> CollectiveLibrary::measured(const CollectiveRequest& request) const {
  const auto is_for = [&](const MeasuredTable& t) {
    return t.type == request.type && t.ranks == request.communicator->size();
  };
  const auto table = std::find_if(config_.measured.begin(), config_.measured.end(), is_for);
  if (table == config_.measured.end()) {
    return std::nullopt;
  }
  const std::vector<Bytes>& sizes = table->sizes;
  const std::vector<Time>& times = table->times;
  if (request.size <= sizes.front()) {
    return times.front();
  }
  if (sizes.size() == 1) {
    return truncate(static_cast<double>(times[0]) * static_cast<double>(request.size) / static_cast<double>(sizes[0]));
  }
  const auto above = std::upper_bound(sizes.begin() + 1, sizes.end() - 1, request.size);
  const auto i = static_cast<std::size_t>(above - sizes.begin());
  const double share = static_cast<double>(request.size - sizes[i - 1]) / static_cast<double>(sizes[i] - sizes[i - 1]);
  const double time = static_cast<double>(times[i - 1]) + share * static_cast<double>(times[i] - times[i - 1]);
  return truncate(std::max(time, 0.0));
}

}  // namespace astra
