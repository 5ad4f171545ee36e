// Files: read-only maps, whole reads, crash-safe writes, checksums, zstd.
#pragma once

#include <r1/result.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace r1::rt {

class MappedFile {
 public:
  static Result<std::shared_ptr<const MappedFile>> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }
  [[nodiscard]] std::size_t size() const { return size_; }
  // For files read sequentially or in megabytes: huge pages, where the file system's page cache has them.
  void advise_huge_pages() const;
  // Drops the pages of a range from this process (they stay in the page cache): bounds RSS while streaming through.
  void release(std::uint64_t offset_bytes, std::uint64_t length_bytes) const;

 private:
  MappedFile() = default;
  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

[[nodiscard]] Result<std::string> read_text_file(const std::string& path, std::uint64_t max_bytes);
// Writes path.partial, syncs, renames over path, syncs the directory.
[[nodiscard]] Result<void> write_file_atomically(const std::string& path, std::span<const std::byte> bytes);
// The same of several pieces, one behind the other.
[[nodiscard]] Result<void> write_file_atomically(const std::string& path,
                                                 std::span<const std::span<const std::byte>> pieces);

[[nodiscard]] std::uint64_t xxh3_64(std::span<const std::byte> bytes);

[[nodiscard]] std::vector<std::byte> zstd_compress(std::span<const std::byte> bytes, int level);
[[nodiscard]] Result<std::vector<std::byte>> zstd_decompress(std::span<const std::byte> bytes, std::uint64_t max_bytes,
                                                             const std::string& where);

}  // namespace r1::rt
