// An execution graph as it comes in: Chakra nodes in parallel arrays.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "astra/base/types.h"

namespace astra {

// Chakra numbering (mlcommons); PIM_COMP is LLMServingSim's.
enum class NodeType : std::uint8_t {
  kInvalid = 0,
  kMetadata = 1,
  kMemLoad = 2,
  kMemStore = 3,
  kComp = 4,
  kSend = 5,
  kRecv = 6,
  kColl = 7,
  kPimComp = 8,
};

constexpr bool is_memory(NodeType type) {
  return type == NodeType::kMemLoad || type == NodeType::kMemStore || type == NodeType::kPimComp;
}

enum class MemoryLocation : std::uint8_t { kLocal = 1, kRemote = 2, kCxl = 3, kStorage = 4 };

// Compressed rows: row i is values[offsets[i], offsets[i + 1]).
struct Rows {
  std::vector<std::int32_t> offsets;
  std::vector<std::int32_t> values;
};

struct GraphSpec {
  std::vector<std::string> names;
  std::vector<std::uint8_t> type;
  std::vector<std::int32_t> rank_class;
  std::vector<std::int64_t> duration_ns;
  std::vector<std::int64_t> size_bytes;
  std::vector<std::uint8_t> collective;
  std::vector<std::int32_t> peer;
  std::vector<std::int32_t> tag;
  std::vector<std::uint8_t> location;
  std::vector<std::int32_t> group;  // index into groups, or -1
  std::vector<std::uint8_t> is_cpu_op;
  std::vector<std::uint32_t> involved_dims;  // bit d: the collective uses dimension d
  std::vector<std::int32_t> priority;        // of collectives under EXPLICIT, larger first
  std::vector<std::int64_t> num_ops;         // of COMP nodes, for roofline timing
  std::vector<std::int32_t> device;          // memory device within the location
  std::vector<std::int32_t> channel;         // PIM channel within the device
  std::vector<std::int32_t> program;         // what replaces a collective's algorithm, or -1
  Rows data_deps;
  Rows ctrl_deps;
  std::vector<std::vector<Rank>> rank_classes;
  std::vector<std::vector<Rank>> groups;

  std::size_t size() const { return names.size(); }
};

}  // namespace astra
