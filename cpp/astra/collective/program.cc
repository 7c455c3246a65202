#include "astra/collective/program.h"

#include <algorithm>
#include <string>

#include "astra/base/errors.h"
#include "astra/base/truncate.h"

namespace astra {
namespace {

void check_step(const Program& program, std::size_t i, std::int32_t places) {
  const Step& step = program[i];
  const auto refuse_step = [i](const std::string& why) { refuse("step " + std::to_string(i) + ": " + why); };
  const bool is_message = step.kind == StepKind::kSend || step.kind == StepKind::kReceive;
  if (is_message && (step.peer < 0 || step.peer >= places)) {
    refuse_step("peer " + std::to_string(step.peer) + " is not one of " + std::to_string(places) + " places");
  }
  if (step.bytes < (is_message ? 1 : 0) || step.bytes > std::int64_t{1} << 59) {
    refuse_step("size_bytes " + std::to_string(step.bytes) + " is not between 0 (messages: 1) and 2^59");
  }
  if (step.duration < -1 || step.duration > static_cast<Time>(kLongest)) {
    refuse_step("duration_ns must be between 0 and 10^18, not " + std::to_string(step.duration));
  }
  for (const std::uint32_t on : step.after) {
    if (on >= program.size()) {
      refuse_step("it waits for step " + std::to_string(on) + ", but there are " + std::to_string(program.size()));
    }
  }
}

}  // namespace

Dependencies::Dependencies(const Program& program) : waits(program.size(), 0), offsets(program.size() + 1, 0) {
  for (const Step& step : program) {
    for (const std::uint32_t on : step.after) {
      ++offsets[on + 1];
    }
  }
  for (std::size_t i = 0; i < program.size(); ++i) {
    offsets[i + 1] += offsets[i];
  }
  followers.resize(offsets.back());
  std::vector<std::uint32_t> next(offsets.begin(), offsets.end() - 1);
  for (std::uint32_t i = 0; i < program.size(); ++i) {
    for (const std::uint32_t on : program[i].after) {
      followers[next[on]++] = i;
    }
    waits[i] = static_cast<std::uint32_t>(program[i].after.size());
  }
}

void check_program(const Program& program, std::int32_t places, std::int32_t own) {
  if (std::none_of(program.begin(), program.end(), [](const Step& step) { return step.is_awaited; })) {
    refuse("the rank at place " + std::to_string(own) + " of a collective has no step; expected at least one");
  }
  for (std::size_t i = 0; i < program.size(); ++i) {
    check_step(program, i, places);
    if (program[i].peer == own) {
      refuse("step " + std::to_string(i) + ": the rank at place " + std::to_string(own) + " exchanges with itself");
    }
  }
  Dependencies left(program);
  std::vector<std::uint32_t> order;
  for (std::uint32_t i = 0; i < program.size(); ++i) {
    if (left.waits[i] == 0) order.push_back(i);
  }
  for (std::size_t k = 0; k < order.size(); ++k) {
    for (std::uint32_t f = left.offsets[order[k]]; f < left.offsets[order[k] + 1]; ++f) {
      if (--left.waits[left.followers[f]] == 0) order.push_back(left.followers[f]);
    }
  }
  if (order.size() != program.size()) {
    refuse("the steps of a collective wait for each other in a circle");
  }
}

}  // namespace astra
