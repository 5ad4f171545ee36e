// Internal to numa/: the physical cores this process may use.
#pragma once

#include <sched.h>

#include <vector>

namespace r1::numa {

// One set per physical core with hardware threads in this process's affinity mask: the first such thread. Never empty.
[[nodiscard]] std::vector<cpu_set_t> usable_cores();

}  // namespace r1::numa
