// What a rank does in one phase of a collective.
//
// Most algorithms move blocks: a rank *prepares* block k (k = 0, 1, ...) at the start of a phase (the first `window`
// blocks) and then one block per message received. Each preparation costs the endpoint delay and, if it reduces, a
// local reduction; then the oldest prepared block may be sent. The phase ends when all blocks are sent and `window`
// credits are left. Others spell out their steps as a program.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "astra/base/types.h"
#include "astra/collective/program.h"
#include "astra/collective/types.h"

namespace astra {

// One phase of one chunk on one rank.
struct Phase {
  CollectiveType type = CollectiveType::kAllReduce;
  Bytes bytes = 0;           // the phase's input
  std::int32_t members = 0;  // of the logical ring
  std::int32_t index = 0;    // the rank's place in it
  std::int32_t step = 1;     // 1: clockwise, the receiver is the successor; -1: anticlockwise
  std::int32_t variant = 0;  // alternates from chunk to chunk
  bool is_group = false;     // of ranks listed by the user, which are fewer than the system has
  // Filled by a block algorithm.
  std::int64_t to_send = 0;
  std::int64_t window = 1;
  bool is_gated = false;  // the last members - 1 blocks wait until as many were received
};

struct Block {
  std::int32_t to = 0;    // place in the logical ring
  std::int32_t from = 0;  // whose block of the same size is expected
  Bytes bytes = 0;
  Bytes reduced = -1;  // what is reduced before this block may be sent; -1: nothing
};

// What ASTRA-sim does, or what is right where the two differ.
enum class Rules : std::uint8_t { kRight, kAstraSim };

class CollectiveAlgorithm {
 public:
  virtual ~CollectiveAlgorithm() = default;
  // Raises std::invalid_argument on a number of members that it cannot serve. `name` is for the message.
  virtual void check_members(CollectiveType type, std::int32_t members, const std::string& name) const;
  // Whether each phase does what its type says; otherwise every phase is an all-reduce.
  virtual bool keeps_type() const { return true; }
  // How many variants its phases have, taken in turn.
  virtual std::int32_t variants() const { return 1; }
};

class BlockAlgorithm : public CollectiveAlgorithm {
 public:
  // Fills in `to_send`, `window` and `is_gated`.
  virtual void plan(Phase& phase) const = 0;
  // Block `k` of the phase, in order of preparation.
  virtual Block block(const Phase& phase, std::int64_t k) const = 0;
  // Over how many blocks from 0 on a rank's partners are all different places; then they repeat.
  virtual std::int64_t partners(const Phase& phase) const = 0;
  // After how many preparations the shared bus begins anew.
  virtual std::int64_t cycle(const Phase& phase) const = 0;
  // Whether every block goes to the same partner and is as large as the others, so that time is a product.
  virtual bool is_uniform() const { return false; }
};

class ProgramAlgorithm : public CollectiveAlgorithm {
 public:
  // The steps of the rank at the phase's index.
  virtual Program program(const Phase& phase) const = 0;
};

// An algorithm of ASTRA-sim by its name, without "one". Raises std::invalid_argument on an unknown name.
std::unique_ptr<CollectiveAlgorithm> make_algorithm(const std::string& name, Rules rules);

}  // namespace astra
