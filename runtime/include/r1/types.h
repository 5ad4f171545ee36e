// Types that every public header shares.
#pragma once

#include <cstdint>

namespace r1 {

using Token = std::int32_t;

}  // namespace r1
