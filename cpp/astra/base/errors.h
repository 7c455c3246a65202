// The errors this library raises. Wrong input is std::invalid_argument.
#pragma once

#include <stdexcept>
#include <string>

namespace astra {

// Nothing is left to happen and somebody still waits; the message lists who and for what.
class DeadlockError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A law of the simulator is broken: a bug.
class InvariantError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

[[noreturn]] void raise_invariant(const char* law);

// Kept in every build.
inline void check(bool holds, const char* law) {
  if (!holds) [[unlikely]] {
    raise_invariant(law);
  }
}

// A name from a user's file as one short line, for messages.
std::string printable(const std::string& name);

// Raises std::invalid_argument with `message`.
[[noreturn]] void refuse(const std::string& message);

}  // namespace astra
