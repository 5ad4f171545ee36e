#include "runtime/model/load.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <limits>
#include <mutex>
#include <vector>

#include "numa/arena.h"
#include "numa/huge_pages.h"
#include "numa/thread_team.h"
#include "numa/topology.h"
#include "runtime/base/try.h"
#include "runtime/io/descriptor.h"

namespace r1::rt {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double gigabytes(std::uint64_t bytes) {
  return static_cast<double>(bytes) / 1e9;
}

// A shard's blobs lie one behind the other: one range of the file, one of the arena.
struct ShardRange {
  std::string path;
  std::uint64_t begin_bytes = 0, end_bytes = 0;  // in the file
  std::uint64_t arena_bytes = 0;                 // where it begins in the arena
};

struct ArenaPlan {
  std::vector<ShardRange> shards;
  std::vector<std::size_t> shard_of_blob;
  std::uint64_t bytes = 0;
};

ArenaPlan plan_arena(const ModelFile& file) {
  ArenaPlan plan;
  for (const BlobInfo& blob : file.blobs()) {
    auto shard = std::find_if(plan.shards.rbegin(), plan.shards.rend(),
                              [&](const ShardRange& range) { return range.path == blob.file; });
    if (shard == plan.shards.rend()) {
      plan.shards.push_back({blob.file, blob.offset_bytes, blob.offset_bytes, 0});
      shard = plan.shards.rbegin();
    }
    shard->begin_bytes = std::min(shard->begin_bytes, blob.offset_bytes);
    shard->end_bytes = std::max(shard->end_bytes, blob.offset_bytes + blob.length_bytes);
    plan.shard_of_blob.push_back(static_cast<std::size_t>(&*shard - plan.shards.data()));
  }
  for (ShardRange& shard : plan.shards) {
    constexpr std::uint64_t huge = numa::Arena::alignment_bytes;
    shard.arena_bytes = plan.bytes;
    plan.bytes += (shard.end_bytes - shard.begin_bytes + huge - 1) / huge * huge;
  }
  return plan;
}

// Reads the shards into the arena with all cores: from the page cache that is a copy, and one core does not saturate
// the memory.
class ArenaReader {
 public:
  ArenaReader(const ArenaPlan& plan, const numa::Arena& arena, double max_seconds, bool drop_page_cache)
      : plan_(plan), arena_(arena), max_seconds_(max_seconds), drop_page_cache_(drop_page_cache) {}

  Result<void> run() {
    for (std::size_t i = 0; i < plan_.shards.size(); ++i) {
      const ShardRange& shard = plan_.shards[i];
      R1_TRY(Descriptor file, Descriptor::open(shard.path, O_RDONLY | O_NONBLOCK));
      files_.push_back(std::move(file));
      for (std::uint64_t at = shard.begin_bytes; at < shard.end_bytes; at += chunk_bytes)
        chunks_.push_back({i, at, std::min(chunk_bytes, shard.end_bytes - at)});
    }
    start_ = Clock::now();
    numa::ThreadTeam team;
    team.run([&](const numa::Member&) {
      for (std::size_t i = next_++; i < chunks_.size() && !ended_; i = next_++) read(chunks_[i]);
    });
    if (failed_) return std::move(error_);
    return {};
  }

  [[nodiscard]] bool too_slow() const { return too_slow_; }

 private:
  // Two huge pages, so that no two threads fault in the same one.
  static constexpr std::uint64_t chunk_bytes = 2 * numa::Arena::alignment_bytes;
  struct Chunk {
    std::size_t shard = 0;
    std::uint64_t offset_bytes = 0, length_bytes = 0;  // in the file
  };

  void read(const Chunk& chunk) {
    const ShardRange& shard = plan_.shards[chunk.shard];
    const int fd = files_[chunk.shard].get();
    std::byte* to = arena_.data() + shard.arena_bytes + (chunk.offset_bytes - shard.begin_bytes);
    for (std::uint64_t done = 0; done < chunk.length_bytes;) {
      const std::uint64_t at = chunk.offset_bytes + done;
      const ssize_t n = ::pread(fd, to + done, chunk.length_bytes - done, static_cast<off_t>(at));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        Error error =
            n == 0 ? Error{ErrorCode::corrupt, fmt::format("ends at byte {}, within its tensors", at), shard.path}
                   : os_error(shard.path, fmt::format("read at byte {}", at).c_str());
        const std::lock_guard lock(mutex_);
        if (!failed_) error_ = std::move(error);
        failed_ = ended_ = true;
        return;
      }
      done += static_cast<std::uint64_t>(n);
    }
    if (drop_page_cache_) {
      ::posix_fadvise(fd, static_cast<off_t>(chunk.offset_bytes), static_cast<off_t>(chunk.length_bytes),
                      POSIX_FADV_DONTNEED);
    }
    const std::uint64_t done = done_bytes_ += chunk.length_bytes;
    const double seconds = seconds_since(start_);
    // Half a second tells the pace.
    if (seconds > std::min(0.5, max_seconds_ / 2) &&
        seconds * static_cast<double>(plan_.bytes) / static_cast<double>(done) > max_seconds_) {
      too_slow_ = ended_ = true;
    }
  }

  const ArenaPlan& plan_;
  const numa::Arena& arena_;
  double max_seconds_;
  bool drop_page_cache_;
  std::vector<Descriptor> files_;
  std::vector<Chunk> chunks_;
  Clock::time_point start_;
  std::atomic<std::size_t> next_ = 0;
  std::atomic<std::uint64_t> done_bytes_ = 0;
  std::atomic<bool> ended_ = false, too_slow_ = false, failed_ = false;
  std::mutex mutex_;
  Error error_;
};

// Null if it would take longer than max_seconds.
Result<std::shared_ptr<const ModelFile>> read_weights(const ModelFile& file, const ArenaPlan& plan,
                                                      const MemoryFacts& memory, double max_seconds) {
  std::shared_ptr<const numa::Arena> arena = numa::Arena::allocate(plan.bytes);
  if (arena == nullptr) {
    return Error{
        ErrorCode::out_of_memory,
        fmt::format("the system refuses {:.2f} GB of memory for the weights; use --load map", gigabytes(plan.bytes)),
        file.directory()};
  }
  // Where copy and page cache do not both fit, pages that have been copied go first; else the next start finds them.
  const bool drop_page_cache = memory.available_bytes / 2 < plan.bytes;
  ArenaReader reader(plan, *arena, max_seconds, drop_page_cache);
  R1_CHECK(reader.run());
  if (reader.too_slow()) return std::shared_ptr<const ModelFile>();
  arena->protect();
  std::vector<const std::byte*> places;
  for (std::size_t i = 0; i < file.blobs().size(); ++i) {
    const ShardRange& shard = plan.shards[plan.shard_of_blob[i]];
    places.push_back(arena->data() + shard.arena_bytes + (file.blobs()[i].offset_bytes - shard.begin_bytes));
  }
  return file.moved_to(places, arena);
}

// Empty: they fit.
std::string reason_not_to_fit(std::uint64_t bytes, std::uint64_t spare_bytes, const MemoryFacts& memory) {
  if (memory.available_bytes >= spare_bytes && memory.available_bytes - spare_bytes >= bytes) return "";
  return fmt::format("{:.2f} GB of weights{} do not fit the {:.2f} GB of memory available", gigabytes(bytes),
                     spare_bytes == 0 ? "" : fmt::format(" and {:.2f} GB to spare", gigabytes(spare_bytes)),
                     gigabytes(memory.available_bytes));
}

// Why automatic should not even try; empty: it should.
std::string reason_to_map(const ArenaPlan& plan, const MemoryFacts& memory) {
  if (!memory.huge_pages) return "no transparent huge pages (r1 doctor says how to allow them)";
  if (memory.mapped_huge_share >= 0.9) return "the page cache holds the files in huge pages";
  // Room for the KV cache, prefill's buffers and whatever else the machine does.
  return reason_not_to_fit(plan.bytes, std::max<std::uint64_t>(std::uint64_t{2} << 30, plan.bytes / 10), memory);
}

}  // namespace

MemoryFacts memory_facts(const ModelFile& file) {
  const numa::Topology topology = numa::read_topology();
  // Some places all over the files tell for the whole.
  constexpr std::size_t n_samples = 32;
  const auto blobs = file.blobs();
  std::vector<const std::byte*> samples;
  const std::size_t step = std::max<std::size_t>(1, blobs.size() / n_samples);
  for (std::size_t i = 0; i < blobs.size(); i += step) {
    if (blobs[i].length_bytes >= numa::Arena::alignment_bytes)
      samples.push_back(blobs[i].parts[0].blob + blobs[i].length_bytes / 2);
  }
  return {topology.memory_available_bytes,
          topology.transparent_huge_pages == "always" || topology.transparent_huge_pages == "madvise",
          numa::huge_page_share(samples)};
}

Result<LoadedFile> load(std::shared_ptr<const ModelFile> file, LoadMode mode, const MemoryFacts& memory,
                        double max_seconds) {
  const auto start = Clock::now();
  LoadedFile loaded{std::move(file), {LoadMode::map, "asked for", 0}};
  if (mode == LoadMode::map) return loaded;
  const ArenaPlan plan = plan_arena(*loaded.file);
  if (mode == LoadMode::automatic) {
    loaded.report.reason = reason_to_map(plan, memory);
    if (!loaded.report.reason.empty()) return loaded;
  } else {
    max_seconds = std::numeric_limits<double>::infinity();
    loaded.report.reason = reason_not_to_fit(plan.bytes, 0, memory);
    if (!loaded.report.reason.empty() && mode == LoadMode::read_if_fits) return loaded;
    if (!loaded.report.reason.empty()) {
      return Error{ErrorCode::out_of_memory, loaded.report.reason + "; use --load map", loaded.file->directory()};
    }
    loaded.report.reason = "asked for";
  }
  R1_TRY(const auto copy, read_weights(*loaded.file, plan, memory, max_seconds));
  loaded.report.seconds = seconds_since(start);
  if (copy == nullptr) {
    loaded.report.reason = fmt::format("reading {:.2f} GB would take more than {:.0f} s; --load read waits",
                                       gigabytes(plan.bytes), max_seconds);
    return loaded;
  }
  loaded.file = copy;
  loaded.report.mode = LoadMode::read;
  if (mode == LoadMode::automatic) loaded.report.reason = "it fits, and huge pages are read faster";
  return loaded;
}

}  // namespace r1::rt
