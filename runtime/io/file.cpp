#include "runtime/io/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "runtime/base/try.h"
#include "runtime/io/descriptor.h"

namespace r1::rt {

Error os_error(const std::string& path, const char* action) {
  const int reason = errno;
  const ErrorCode code = reason == ENOENT || reason == ENOTDIR ? ErrorCode::not_found : ErrorCode::io;
  return {code, fmt::format("cannot {}: {}", action, std::strerror(reason)), path};
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

Result<Descriptor> Descriptor::open(const std::string& path, int flags, unsigned mode) {
  const int fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  if (fd < 0) return os_error(path, flags & (O_WRONLY | O_RDWR) ? "open for writing" : "open");
  return Descriptor(fd);
}

Result<void> write_all(int fd, const std::string& path, std::span<const std::byte> bytes, std::uint64_t offset_bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset_bytes));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      if (n == 0) errno = ENOSPC;
      return os_error(path, fmt::format("write {} bytes at byte {}", bytes.size(), offset_bytes).c_str());
    }
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    offset_bytes += static_cast<std::uint64_t>(n);
  }
  return {};
}

Result<void> sync_parent_directory(const std::string& path) {
  const std::size_t slash = path.find_last_of('/');
  const std::string parent = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  R1_TRY(const Descriptor directory, Descriptor::open(parent, O_RDONLY | O_DIRECTORY));
  if (::fsync(directory.get()) != 0 && errno != EINVAL) return os_error(parent, "sync the directory");
  return {};
}

namespace {

// For reading. O_NONBLOCK: a named pipe must not make the open wait for a writer; for regular files it means nothing.
Result<Descriptor> open_regular_file(const std::string& path, struct stat& status) {
  R1_TRY(Descriptor file, Descriptor::open(path, O_RDONLY | O_NONBLOCK));
  if (::fstat(file.get(), &status) != 0) return os_error(path, "read the size");
  if (!S_ISREG(status.st_mode)) return Error{ErrorCode::io, "is not a regular file", path};
  return file;
}

}  // namespace

Result<std::shared_ptr<const MappedFile>> MappedFile::open(const std::string& path) {
  struct stat status {};
  R1_TRY(const Descriptor file, open_regular_file(path, status));
  auto mapped = std::shared_ptr<MappedFile>(new MappedFile());
  mapped->path_ = path;
  mapped->size_ = static_cast<std::size_t>(status.st_size);
  if (mapped->size_ > 0) {
    void* data = ::mmap(nullptr, mapped->size_, PROT_READ, MAP_SHARED, file.get(), 0);
    if (data == MAP_FAILED) return os_error(path, "map");
    mapped->data_ = static_cast<const std::byte*>(data);
  }
  return std::shared_ptr<const MappedFile>(std::move(mapped));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::advise_huge_pages() const {
  if (data_ != nullptr) ::madvise(const_cast<std::byte*>(data_), size_, MADV_HUGEPAGE);
}

void MappedFile::release(std::uint64_t offset_bytes, std::uint64_t length_bytes) const {
  // Whole pages inside the range only: a neighbour's page stays.
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const std::uint64_t begin = (offset_bytes + page - 1) / page * page;
  const std::uint64_t end = std::min<std::uint64_t>(offset_bytes + length_bytes, size_) / page * page;
  if (end > begin) ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

Result<std::string> read_text_file(const std::string& path, std::uint64_t max_bytes) {
  struct stat status {};
  R1_TRY(const Descriptor file, open_regular_file(path, status));
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size > max_bytes) {
    return Error{ErrorCode::unsupported,
                 fmt::format("is {} bytes, more than the {} expected of such a file", size, max_bytes), path};
  }
  std::string text(size, '\0');
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = ::pread(file.get(), text.data() + done, text.size() - done, static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return os_error(path, fmt::format("read at byte {}", done).c_str());
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  text.resize(done);
  return text;
}

Result<void> write_file_atomically(const std::string& path, std::span<const std::byte> bytes) {
  return write_file_atomically(path, std::span(&bytes, 1));
}

Result<void> write_file_atomically(const std::string& path, std::span<const std::span<const std::byte>> pieces) {
  const std::string partial = path + ".partial";
  {
    R1_TRY(const Descriptor file, Descriptor::open(partial, O_WRONLY | O_CREAT | O_TRUNC, 0644));
    std::uint64_t offset_bytes = 0;
    for (const std::span<const std::byte> bytes : pieces) {
      R1_CHECK(write_all(file.get(), partial, bytes, offset_bytes));
      offset_bytes += bytes.size();
    }
    if (::fsync(file.get()) != 0) return os_error(partial, "sync");
  }
  if (::rename(partial.c_str(), path.c_str()) != 0) return os_error(partial, "rename to its final name");
  return sync_parent_directory(path);
}

std::uint64_t xxh3_64(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

std::vector<std::byte> zstd_compress(std::span<const std::byte> bytes, int level) {
  std::vector<std::byte> out(ZSTD_compressBound(bytes.size()));
  const std::size_t n = ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), level);
  // The bound suffices for any input; only a lack of memory inside zstd can fail, and then nothing is a safe answer.
  out.resize(ZSTD_isError(n) ? 0 : n);
  return out;
}

Result<std::vector<std::byte>> zstd_decompress(std::span<const std::byte> bytes, std::uint64_t max_bytes,
                                               const std::string& where) {
  const std::unique_ptr<ZSTD_DStream, decltype(&ZSTD_freeDStream)> stream(ZSTD_createDStream(), &ZSTD_freeDStream);
  if (stream == nullptr) return Error{ErrorCode::out_of_memory, "no memory to decompress", where};
  std::vector<std::byte> out;
  ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
  // Grows with what really comes out: a declared size is not to be believed.
  constexpr std::size_t step_bytes = std::size_t{1} << 20;
  std::size_t pending = 1;  // 0 once a frame has ended
  while (in.pos < in.size || pending != 0) {
    const std::size_t filled = out.size();
    const std::uint64_t room = max_bytes - filled;
    out.resize(filled + static_cast<std::size_t>(std::min<std::uint64_t>(step_bytes, room)));
    ZSTD_outBuffer chunk{out.data() + filled, out.size() - filled, 0};
    const std::size_t in_before = in.pos;
    pending = ZSTD_decompressStream(stream.get(), &chunk, &in);
    if (ZSTD_isError(pending) != 0) {
      return Error{ErrorCode::corrupt, fmt::format("byte {}: zstd: {}", in.pos, ZSTD_getErrorName(pending)), where};
    }
    out.resize(filled + chunk.pos);
    if (chunk.pos > 0 || in.pos > in_before) continue;
    if (room == 0) {
      return Error{ErrorCode::corrupt, fmt::format("zstd: holds more than the {} bytes expected", max_bytes), where};
    }
    if (pending != 0) return Error{ErrorCode::corrupt, "zstd: ends in the middle of a frame; is it truncated?", where};
  }
  return out;
}

}  // namespace r1::rt
