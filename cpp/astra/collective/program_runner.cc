#include "astra/collective/program_runner.h"

#include <algorithm>
#include <utility>

#include "astra/base/errors.h"

namespace astra {
namespace {

constexpr std::uint32_t kStepTagShift = 46;  // above what the tags of collectives use
constexpr std::uint32_t kIndexBits = 32;

std::uint64_t argument(std::uint32_t run, std::uint32_t step) { return std::uint64_t{step} << kIndexBits | run; }

}  // namespace

void ProgramRunner::start(const ProgramPlace& place, Program program, Call ended) {
  const std::uint32_t index = runs_.take();
  Run& run = runs_[index];
  run = {place, std::move(program), {}, 0, 0, ended};
  run.left = Dependencies(run.program);
  run.awaited = static_cast<std::size_t>(
      std::count_if(run.program.begin(), run.program.end(), [](const Step& step) { return step.is_awaited; }));
  check(run.awaited > 0, "a checked program has a step to wait for");
  std::vector<std::uint32_t> ready;
  for (std::uint32_t i = 0; i < run.program.size(); ++i) {
    if (run.left.waits[i] == 0) ready.push_back(i);
  }
  for (const std::uint32_t step : ready) {
    start_step(index, step);
  }
}

void ProgramRunner::start_step(std::uint32_t index, std::uint32_t number) {
  const Run& run = runs_[index];
  const ProgramPlace& place = run.place;
  const Step& step = run.program[number];
  const Call done{this, kStepDone, argument(index, number)};
  const std::uint64_t tag = place.is_user_tagged ? step.tag : place.tag | std::uint64_t{step.tag} << kStepTagShift;
  switch (step.kind) {
    case StepKind::kSend:
      messenger_.send({tag, place.rank, place.ring.at(step.peer), step.bytes}, step.is_awaited ? done : Call{});
      break;
    case StepKind::kReceive:
      messenger_.receive({tag, place.ring.at(step.peer), place.rank, step.bytes}, done);
      break;
    case StepKind::kReduce:
      pass_endpoint(index, step, {this, kStepReduces, argument(index, number)});
      break;
    case StepKind::kDelay:
      if (step.duration >= 0) {
        events_.schedule_local(*place.local, step.duration, done);
      } else {
        pass_endpoint(index, step, done);
      }
      break;
  }
}

// Takes the endpoint delay, or crosses the bus instead.
void ProgramRunner::pass_endpoint(std::uint32_t index, const Step& step, Call passed) {
  Run& run = runs_[index];
  if (run.place.bus == nullptr) {
    events_.schedule_local(*run.place.local, run.place.endpoint_delay, passed);
    return;
  }
  const bool is_second = step.bus == BusWay::kBackIfSecond && ++run.pairs_begun % 2 == 0;
  run.place.bus->request({.from_network = step.bus != BusWay::kFromRank,
                          .is_processed = step.kind == StepKind::kReduce,
                          .goes_back = step.bus == BusWay::kThereAndBack || is_second,
                          .bytes = step.bytes},
                         *run.place.local, passed);
}

void ProgramRunner::end_step(std::uint32_t index, std::uint32_t number) {
  Run& run = runs_[index];
  std::vector<std::uint32_t> ready;
  for (std::uint32_t f = run.left.offsets[number]; f < run.left.offsets[number + 1]; ++f) {
    if (--run.left.waits[run.left.followers[f]] == 0) ready.push_back(run.left.followers[f]);
  }
  const bool is_over = --run.awaited == 0;
  for (const std::uint32_t step : ready) {
    start_step(index, step);
  }
  if (is_over) {
    const Call ended = runs_[index].ended;
    runs_.give_back(index);
    ended();
  }
}

void ProgramRunner::fire(std::uint32_t code, std::uint64_t arg) {
  const auto run = static_cast<std::uint32_t>(arg);
  const auto step = static_cast<std::uint32_t>(arg >> kIndexBits);
  if (code == kStepDone) {
    end_step(run, step);
    return;
  }
  const Bytes bytes = runs_[run].program[step].bytes;
  events_.schedule_local(*runs_[run].place.local, library_.reduction(bytes), {this, kStepDone, arg});
}

}  // namespace astra
