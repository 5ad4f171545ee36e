// Where a model's weights are while it runs: in its files' pages (map), or copied to huge pages of this process (read).
#pragma once

#include <r1/model.h>
#include <r1/result.h>

#include <cstdint>
#include <memory>
#include <string>

#include "runtime/model_file/model_file.h"

namespace r1::rt {

// What the choice depends on; of this machine, now, by memory_facts().
struct MemoryFacts {
  std::uint64_t available_bytes = 0;  // the page cache counts: it gives way
  bool huge_pages = false;            // transparent ones can be asked for
  double mapped_huge_share = 0;       // of the mapped files that is in huge pages already
};
[[nodiscard]] MemoryFacts memory_facts(const ModelFile& file);

struct LoadedFile {
  std::shared_ptr<const ModelFile> file;
  LoadReport report;
};

// What a person waits for without asking why. From the page cache, a copy runs at 5 to 10 GB/s on two cores; larger
// models are read where r1 tune, or --load read, says so.
inline constexpr double max_automatic_seconds = 5;

// map: `file` as it is. read: a copy in memory; refused if it does not fit. automatic: read if huge pages are to be had
// that the files' pages are not, the model fits with room to spare, and reading takes no longer than max_seconds; else
// map.
[[nodiscard]] Result<LoadedFile> load(std::shared_ptr<const ModelFile> file, LoadMode mode, const MemoryFacts& memory,
                                      double max_seconds = max_automatic_seconds);

}  // namespace r1::rt
