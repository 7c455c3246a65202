// A collective spelled out: the steps of one rank and what each waits for.
#pragma once

#include <cstdint>
#include <vector>

#include "astra/base/types.h"

namespace astra {

enum class StepKind : std::uint8_t { kSend = 0, kReceive = 1, kReduce = 2, kDelay = 3 };

// How a reduction or the endpoint delay crosses the shared bus, where there is one.
enum class BusWay : std::uint8_t {
  kFromRank,      // from the rank to the network
  kToRank,        // from the network to the rank
  kThereAndBack,  // and back to the network
  kBackIfSecond,  // back only if another step of this kind began before
};

struct Step {
  StepKind kind = StepKind::kDelay;
  std::int32_t peer = -1;  // place in the communicator
  Bytes bytes = 0;         // of the message or the reduced block
  Time duration = -1;      // of a delay; -1: the endpoint delay
  std::uint32_t tag = 0;
  bool is_awaited = true;            // the program ends only after this step
  std::vector<std::uint32_t> after;  // steps that must have ended
  BusWay bus = BusWay::kToRank;
};

using Program = std::vector<Step>;

// Turns "waits for" round: the followers of step i are followers[offsets[i], offsets[i + 1]).
struct Dependencies {
  explicit Dependencies(const Program& program);
  Dependencies() = default;

  std::vector<std::uint32_t> waits;  // per step, how many it waits for
  std::vector<std::uint32_t> offsets;
  std::vector<std::uint32_t> followers;
};

// Raises std::invalid_argument on a program that cannot run at place `own` of a communicator of that many places: no
// step, wrong numbers, or dependencies in a circle.
void check_program(const Program& program, std::int32_t places, std::int32_t own);

}  // namespace astra
