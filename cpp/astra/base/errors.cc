#include "astra/base/errors.h"

namespace astra {

void raise_invariant(const char* law) { throw InvariantError(std::string("simulator invariant broken: ") + law); }

void refuse(const std::string& message) { throw std::invalid_argument(message); }

}  // namespace astra
