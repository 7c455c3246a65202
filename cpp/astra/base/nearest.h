// What a person may have meant.
#pragma once

#include <string>
#include <vector>

namespace astra {

// " (did you mean 'x'?)" for the name closest to `name`, case aside; empty if none is close.
std::string nearest(const std::string& name, const std::vector<std::string>& known);

}  // namespace astra
