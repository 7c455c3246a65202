#include "astra/network/route_cache.h"

#include <algorithm>

namespace astra {
namespace {

constexpr std::size_t kBlock = 1 << 12;

std::uint64_t pair(Rank from, Rank to) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(from)) << 32) | static_cast<std::uint32_t>(to);
}

}  // namespace

std::span<const LinkIndex> RouteCache::find(Rank from, Rank to) {
  const std::span<const LinkIndex>* known = routes_.find(pair(from, to));
  return known == nullptr ? std::span<const LinkIndex>{} : *known;
}

std::span<const LinkIndex> RouteCache::keep(Rank from, Rank to, const std::vector<LinkIndex>& links) {
  if (storage_.empty() || storage_.back().capacity() - storage_.back().size() < links.size()) {
    storage_.emplace_back().reserve(std::max(kBlock, links.size()));  // never grows, so that routes stay
  }
  std::vector<LinkIndex>& block = storage_.back();
  block.insert(block.end(), links.begin(), links.end());
  const std::span<const LinkIndex> kept(block.data() + block.size() - links.size(), links.size());
  routes_.insert(pair(from, to), kept);
  return kept;
}

}  // namespace astra
