#include "runtime/engine/disk_speed.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "runtime/sampler/random.h"

namespace r1::rt {
namespace {

constexpr std::uint64_t file_bytes = 256u << 20, block_bytes = 4u << 20, alignment_bytes = 4096;
constexpr int n_readers = 4;  // reads in flight: one alone does not keep an NVMe drive busy
constexpr std::uint64_t min_free_bytes = 1u << 30;
constexpr std::chrono::seconds max_write_time{3};

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Block = std::unique_ptr<std::uint64_t[], Free>;

Block make_block() {
  return Block(static_cast<std::uint64_t*>(std::aligned_alloc(alignment_bytes, block_bytes)));
}

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

int open_temporary(const std::string& directory) {
  const int fd = ::open(directory.c_str(), O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
  if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)) return fd;
  std::string path = directory + "/.r1-disk-test-XXXXXX";  // the file system has no O_TMPFILE
  const int named = ::mkostemp(path.data(), O_DIRECT | O_CLOEXEC);
  if (named >= 0) ::unlink(path.c_str());
  return named;
}

// Writes random blocks, which no file system compresses, for as long as max_write_time allows. Bytes written; 0: errno.
std::uint64_t write_blocks(int fd, std::uint64_t* block) {
  std::uint64_t random[4];
  seed_xoshiro256(random, 1);
  for (std::uint64_t i = 0; i < block_bytes / sizeof(std::uint64_t); ++i) block[i] = xoshiro256(random);
  const auto start = std::chrono::steady_clock::now();
  std::uint64_t written = 0;
  while (written < file_bytes && std::chrono::steady_clock::now() - start < max_write_time) {
    block[0] = written;
    if (::pwrite(fd, block, block_bytes, static_cast<off_t>(written)) != static_cast<ssize_t>(block_bytes)) return 0;
    written += block_bytes;
  }
  return ::fsync(fd) == 0 ? written : 0;
}

}  // namespace

DiskSpeed measure_disk(const std::string& directory, bool measure) {
  DiskSpeed result;
  struct statvfs fs = {};
  if (::statvfs(directory.c_str(), &fs) != 0) {
    result.note = std::strerror(errno);
    return result;
  }
  result.free_bytes = std::uint64_t{fs.f_bavail} * fs.f_frsize;
  if (!measure) {
    result.note = "not measured";
    return result;
  }
  if (result.free_bytes < min_free_bytes) {
    result.note = "not measured: less than 1 GiB free";
    return result;
  }
  const Fd fd(open_temporary(directory));
  if (fd.get() < 0) {
    result.note = errno == EINVAL ? "not measured: this file system cannot read past the page cache (no O_DIRECT)"
                                  : fmt::format("not measured: no temporary file here ({})", std::strerror(errno));
    return result;
  }
  std::vector<Block> blocks;
  for (int i = 0; i < n_readers; ++i) blocks.push_back(make_block());
  for (const Block& block : blocks) {
    if (!block) {
      result.note = "not measured: out of memory";
      return result;
    }
  }
  const std::uint64_t written = write_blocks(fd.get(), blocks[0].get());
  if (written == 0) {
    result.note = fmt::format("not measured: writing a temporary file failed ({})", std::strerror(errno));
    return result;
  }

  std::atomic<std::uint64_t> next{0};
  std::atomic<bool> failed{false};
  const auto start = std::chrono::steady_clock::now();
  {
    std::vector<std::jthread> readers;
    for (const Block& block : blocks) {
      readers.emplace_back([&, data = block.get()] {
        for (std::uint64_t at; (at = next.fetch_add(block_bytes)) < written;) {
          if (::pread(fd.get(), data, block_bytes, static_cast<off_t>(at)) != static_cast<ssize_t>(block_bytes)) {
            failed = true;
          }
        }
      });
    }
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  if (failed) {
    result.note = "not measured: reading the temporary file back failed";
    return result;
  }
  result.read_bytes_per_s = static_cast<double>(written) / seconds.count();
  result.note =
      fmt::format("{} MiB by O_DIRECT, {} reads of {} MiB at a time", written >> 20, n_readers, block_bytes >> 20);
  return result;
}

}  // namespace r1::rt
