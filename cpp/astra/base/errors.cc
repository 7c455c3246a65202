#include "astra/base/errors.h"

#include <cctype>

namespace astra {

std::string printable(const std::string& name) {
  constexpr std::size_t kMost = 80;
  std::string line;
  for (const char c : name.substr(0, kMost)) {
    line += std::iscntrl(static_cast<unsigned char>(c)) != 0 ? ' ' : c;
  }
  return name.size() > kMost ? line + "..." : line;
}

void raise_invariant(const char* law) { throw InvariantError(std::string("simulator invariant broken: ") + law); }

void refuse(const std::string& message) { throw std::invalid_argument(message); }

}  // namespace astra
