// Short ways to write graphs and simulations in tests.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "astra/simulation.h"

using Classes = std::vector<std::vector<astra::Rank>>;

class GraphBuilder {
 public:
  explicit GraphBuilder(Classes classes) {
    spec_.rank_classes = std::move(classes);
    spec_.data_deps.offsets = {0};
    spec_.ctrl_deps.offsets = {0};
  }

  int comp(int rank_class, astra::Time duration, std::vector<int> deps = {}) {
    return add(astra::NodeType::kComp, rank_class, duration, 0, -1, std::move(deps));
  }
  int all_reduce(int rank_class, astra::Bytes size, std::vector<int> deps = {}) {
    return add(astra::NodeType::kColl, rank_class, 0, size, -1, std::move(deps));
  }
  int send(int rank_class, astra::Rank to, astra::Bytes size, std::vector<int> deps = {}) {
    return add(astra::NodeType::kSend, rank_class, 0, size, to, std::move(deps));
  }
  int recv(int rank_class, astra::Rank from, astra::Bytes size, std::vector<int> deps = {}) {
    return add(astra::NodeType::kRecv, rank_class, 0, size, from, std::move(deps));
  }
  int load(int rank_class, astra::Bytes size, std::vector<int> deps = {}) {
    return add(astra::NodeType::kMemLoad, rank_class, 0, size, -1, std::move(deps));
  }
  astra::GraphSpec& spec() { return spec_; }

 private:
  int add(astra::NodeType type, int rank_class, astra::Time duration, astra::Bytes size, astra::Rank peer,
          std::vector<int> deps) {
    const int index = static_cast<int>(spec_.names.size());
    spec_.names.emplace_back("n").append(std::to_string(index));
    spec_.type.push_back(static_cast<std::uint8_t>(type));
    spec_.rank_class.push_back(rank_class);
    spec_.duration_ns.push_back(duration);
    spec_.size_bytes.push_back(size);
    spec_.collective.push_back(0);
    spec_.peer.push_back(peer);
    spec_.tag.push_back(0);
    spec_.location.push_back(2);
    spec_.group.push_back(-1);
    spec_.is_cpu_op.push_back(0);
    spec_.involved_dims.push_back(~std::uint32_t{0});
    spec_.priority.push_back(0);
    spec_.num_ops.push_back(0);
    spec_.device.push_back(0);
    spec_.channel.push_back(0);
    spec_.program.push_back(-1);
    spec_.data_deps.values.insert(spec_.data_deps.values.end(), deps.begin(), deps.end());
    spec_.data_deps.offsets.push_back(static_cast<std::int32_t>(spec_.data_deps.values.size()));
    spec_.ctrl_deps.offsets.push_back(0);
    return index;
  }

  astra::GraphSpec spec_;
};

inline astra::NetworkConfig ring_network(std::int64_t npus) { return {{"Ring"}, {npus}, {50.0 * 1.073741824}, {500}}; }
