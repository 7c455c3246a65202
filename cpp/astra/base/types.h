// Units used everywhere: integer nanoseconds and integer bytes.
#pragma once

#include <cstdint>

namespace astra {

using Time = std::int64_t;   // nanoseconds
using Bytes = std::int64_t;  // bytes
using Rank = std::int32_t;   // a device of the network

}  // namespace astra
