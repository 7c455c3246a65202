#include "astra/collective/communicator.h"

#include <algorithm>

namespace astra {

std::int32_t Communicator::place(Rank rank) const {
  if (is_whole) {
    return 0 <= rank && rank < size() ? rank : -1;
  }
  const auto found = std::lower_bound(places.begin(), places.end(), std::pair{rank, std::int32_t{0}});
  return found != places.end() && found->first == rank ? found->second : -1;
}

}  // namespace astra
