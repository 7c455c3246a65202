#include "astra/network/route_cache.h"

#include <algorithm>
#include <utility>

#include "astra/base/errors.h"

namespace astra {
namespace {

constexpr std::size_t kFirstSize = 64;  // a power of two, as all sizes of the table
constexpr std::size_t kBlock = 1 << 12;

std::uint64_t key(Rank from, Rank to) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(from)) << 32) | static_cast<std::uint32_t>(to);
}

}  // namespace

RouteCache::RouteCache() : table_(kFirstSize) {}

std::size_t RouteCache::place(std::uint64_t pair) const {
  const std::size_t mask = table_.size() - 1;
  const std::uint64_t hash = pair * 0x9E3779B97F4A7C15ULL;
  std::size_t i = static_cast<std::size_t>(hash >> 32) & mask;
  while (!table_[i].links.empty() && table_[i].pair != pair) {
    i = (i + 1) & mask;
  }
  return i;
}

std::span<const LinkIndex> RouteCache::find(Rank from, Rank to) const { return table_[place(key(from, to))].links; }

std::span<const LinkIndex> RouteCache::keep(Rank from, Rank to, const std::vector<LinkIndex>& links) {
  check(!links.empty(), "a route that is kept has a link");
  if (2 * ++used_ > table_.size()) {
    grow();
  }
  if (storage_.empty() || storage_.back().capacity() - storage_.back().size() < links.size()) {
    storage_.emplace_back().reserve(std::max(kBlock, links.size()));  // never grows, so that routes stay
  }
  std::vector<LinkIndex>& block = storage_.back();
  block.insert(block.end(), links.begin(), links.end());
  Entry& entry = table_[place(key(from, to))];
  check(entry.links.empty(), "a pair has one route");
  entry = {key(from, to), {block.data() + block.size() - links.size(), links.size()}};
  return entry.links;
}

void RouteCache::grow() {
  std::vector<Entry> old(2 * table_.size());
  old.swap(table_);
  for (const Entry& entry : old) {
    if (!entry.links.empty()) {
      table_[place(entry.pair)] = entry;
    }
  }
}

}  // namespace astra
