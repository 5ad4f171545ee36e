// How fast a disk reads, past the page cache.
#pragma once

#include <cstdint>
#include <string>

namespace r1::rt {

struct DiskSpeed {
  std::uint64_t free_bytes = 0;
  double read_bytes_per_s = 0;  // 0: not measured
  std::string note;             // how it was measured, or why not
};

// Writes a temporary file into `directory`, which vanishes with the process, and reads it back with O_DIRECT.
[[nodiscard]] DiskSpeed measure_disk(const std::string& directory, bool measure);

}  // namespace r1::rt
