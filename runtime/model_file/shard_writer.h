// Writing one shard of a model directory, crash-safe: NAME.partial with its final size and header, blobs in any order
// from any thread, then checksums into the header, sync, rename. What stands under its final name is complete.
#pragma once

#include <r1/result.h>

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/io/descriptor.h"
#include "runtime/model_file/layout.h"

namespace r1::rt {

struct PlannedBlob {
  BlobSpec spec;
  StoredBlob stored;
};

class ShardWriter {
 public:
  // Creates path + ".partial", replacing an older one, and reserves its space on disk: a full disk is found here, not
  // hours later.
  static Result<std::unique_ptr<ShardWriter>> create(const std::string& path, std::vector<PlannedBlob> blobs,
                                                     const std::string& fingerprint);

  [[nodiscard]] const std::vector<PlannedBlob>& blobs() const { return blobs_; }

  // A whole blob, stored.length_bytes (padding zero). Thread-safe for different blobs.
  [[nodiscard]] Result<void> write_blob(std::size_t index, std::span<const std::byte> bytes);

  // For blobs too large to hold: pieces in any order, then the checksum of the whole by reading back. Thread-safe.
  [[nodiscard]] Result<void> write_piece(std::size_t index, std::uint64_t offset_bytes,
                                         std::span<const std::byte> bytes);
  [[nodiscard]] Result<void> finish_pieces(std::size_t index);

  // All blobs must have been written.
  [[nodiscard]] Result<void> finish();

 private:
  ShardWriter(std::string path, Descriptor file, std::vector<PlannedBlob> blobs, std::string fingerprint);
  [[nodiscard]] std::string header() const;

  std::string path_;
  Descriptor file_;
  std::vector<PlannedBlob> blobs_;
  std::string fingerprint_;
  std::vector<std::uint64_t> offsets_bytes_;  // in the file
  std::vector<std::uint64_t> checksums_;
  std::vector<char> written_;
  std::uint64_t header_bytes_ = 0, file_bytes_ = 0;
};

// True if `path` is a complete shard with this fingerprint and exactly these blobs.
[[nodiscard]] bool is_finished_shard(const std::string& path, const std::vector<PlannedBlob>& blobs,
                                     const std::string& fingerprint);

// Size of the shard's file.
[[nodiscard]] std::uint64_t shard_file_bytes(const std::vector<PlannedBlob>& blobs, const std::string& fingerprint);

}  // namespace r1::rt
